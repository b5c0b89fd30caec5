//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	figure := func(got, limit float64) func(results) (float64, float64) {
		return func(results) (float64, float64) { return got, limit }
	}
	for _, tt := range []struct {
		ask  ask
		want string
	}{
		{ask{figure: figure(1, 2)}, "met"},
		{ask{figure: figure(2, 2)}, "met"},
		{ask{figure: figure(3, 2)}, "missed"},
		{ask{figure: figure(1, 2), least: true}, "missed"},
		{ask{figure: figure(3, 2), least: true}, "met"},
		{ask{figure: figure(math.NaN(), 2)}, "unknown"},
		{ask{figure: figure(1, math.NaN()), least: true}, "unknown"},
	} {
		if got := tt.ask.verdict(nil); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.ask, got, tt.want)
		}
	}
	for _, s := range scenarios {
		for _, a := range s.asks {
			if got := a.verdict(results{}); got != "unknown" {
				t.Errorf("%s: %s without any run is %s", s.name, a.text, got)
			}
		}
	}
}

func TestReport(t *testing.T) {
	s := &scenario{name: "x", runs: []run{{label: ours}, {label: viaRsync}}, asks: []ask{atMost(7), wireAtMost(0.5), timeOf(viaRsync, 2)}}
	r := report{scenario: s, Scenario: s.name, Runs: results{ours: {Seconds: 8, Raw: 1e6, Wire: 250e3}}}
	r.fail(viaRsync, skipError("no rsync"))
	r.fail(viaRsync, errors.Join(errors.New("one"), errors.New("two")))
	r.judge()
	var out bytes.Buffer
	if err := errors.Join(printTables(&out, []report{r}), printJSON(&out, r)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| x        | time ≤ 7 s                   | 8 s",
		"| x        | wire ≤ 0.5 × raw             | 0.25 × raw",
		"| x        | time, of that of rsync ≤ 2 × |",
		"| unknown |", "skipped: rsync: no rsync", "failed: rsync: one; two",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var got report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil || got.Runs[ours] != r.Runs[ours] {
		t.Errorf("%v in %s", err, lines[len(lines)-1])
	}
}
