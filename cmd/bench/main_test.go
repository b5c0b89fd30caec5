//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMirror runs a small scenario with real daemons: a site and its next version,
// over the emulated network, beside hostile peers too, and over loopback. Nothing of it may be left, though it
// is interrupted.
func TestMirror(t *testing.T) {
	needsNetwork(t)
	sites, scratch := tinySites(t), t.TempDir()
	t.Setenv("TMPDIR", scratch)
	line := same(1, rates{1000, 1000})
	wide := scenario{
		name: "wide", rtt: time.Millisecond, site: siteNamed("tiny-1"), next: siteNamed("tiny-2"), limit: time.Minute,
		runs: []run{{"first", line, line, followAndCompare}, {ours, same(2, line[0]), same(2, line[0]), updateWith(polluxProgram)}},
		asks: []ask{atMost(60), atMost(0)},
	}
	local := scenario{
		name: "local", site: siteNamed("tiny-1"), limit: time.Minute,
		runs: []run{{ours, loopback, loopback, follow}},
	}
	var plays, deltaPlays []string
	for _, h := range harms {
		plays = append(plays, h.plays...)
	}
	for _, h := range deltaHarms {
		deltaPlays = append(deltaPlays, h.plays...)
	}
	beside := scenario{
		name: "beside", rtt: time.Millisecond, site: siteNamed("tiny-1"), limit: time.Minute, hostile: line[0],
		runs: []run{{ours, same(2, line[0]), line, followBeside(len(plays), plays)}},
	}
	updated := beside
	updated.name, updated.next = "updated", siteNamed("tiny-2")
	updated.runs = []run{{ours, same(2, line[0]), line, followBeside(len(deltaPlays), deltaPlays)}}
	broken := scenario{
		name: "broken", rtt: time.Millisecond, site: siteNamed("tiny-1"), limit: time.Minute,
		runs: []run{{ours, line, line, disturb(polluxProgram, undisturbed, 0)}},
		asks: []ask{atMost(60)},
	}
	late := scenario{
		name: "late", rtt: time.Millisecond, site: siteNamed("tiny-1"), limit: time.Nanosecond,
		runs: []run{{ours, line, line, follow}},
	}
	absent := scenario{name: "absent", site: siteNamed("missing"), limit: time.Minute, runs: local.runs}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	interrupted := scenario{
		name: "interrupted", rtt: time.Millisecond, site: siteNamed("tiny-1"), limit: time.Minute,
		runs: []run{{ours, line, line, func(ctx context.Context, w *world, _ results) (measure, error) {
			if err := startAll(ctx, w); err != nil {
				return measure{}, err
			}
			interrupt()
			_, err := w.mirrors[0].exec(ctx, "sleep", "3600")
			return measure{}, err
		}}},
	}

	b := &bench{sites: sites, runs: 1, log: t.Logf}
	seen := 0
	reports, err := b.run(ctx, []*scenario{&wide, &local, &beside, &updated, &broken, &absent, &late, &interrupted}, func(report) error {
		seen++
		return nil
	})
	if err == nil || len(reports) != 7 || seen != 7 {
		t.Fatalf("%d reports, %d as they came, %v; want 7, and that it was interrupted", len(reports), seen, err)
	}
	for _, r := range reports[:4] {
		if r.Failed != "" || r.Skipped != "" {
			t.Fatalf("%s: failed %q, skipped %q", r.Scenario, r.Failed, r.Skipped)
		}
		for label, m := range r.Runs {
			if m.Seconds <= 0 || m.Files != 20 || m.Raw == 0 || m.Received == 0 || m.Wire < m.Received ||
				m.SeedPeak == 0 || m.MirrorPeak == 0 || (m.SeedSent == 0) != (r.Scenario == "local") {
				t.Errorf("%s: %s: %+v", r.Scenario, label, m)
			}
		}
	}
	if asks := reports[0].Asks; asks[0].Verdict != "met" || asks[1].Verdict != "missed" {
		t.Errorf("verdicts: %+v", asks)
	}
	if r := reports[4]; !strings.Contains(r.Failed, "the middle") || r.Asks[0].Verdict != "unknown" {
		t.Errorf("a scenario without its first run: %+v", r)
	}
	if r := reports[5]; r.Skipped != "no "+filepath.Join(sites, "missing") || r.Failed != "" {
		t.Errorf("a scenario without its site: %+v", r)
	}
	if r := reports[6]; !strings.Contains(r.Failed, "not done within 1ns") {
		t.Errorf("a scenario that takes too long: %+v", r)
	}
	left, err := os.ReadDir(scratch)
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// needsNetwork skips a test where the network cannot be emulated.
func needsNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no TUN devices here: ", err)
	}
	f.Close()
}

// tinySites makes a directory with a site of 20 files, tiny-1, and its next version, tiny-2.
func tinySites(t *testing.T) string {
	t.Helper()
	sites := t.TempDir()
	for version := range 2 {
		dir := filepath.Join(sites, fmt.Sprint("tiny-", version+1))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			page := fmt.Sprintf("page %d of version %d\n", i, version+1) + strings.Repeat("all the same ", 100)
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".html")), []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sites
}

// TestPeers runs a small scenario with each of the other programs that is here. Its version is
// in the log.
func TestPeers(t *testing.T) {
	needsNetwork(t)
	sites, scratch := tinySites(t), t.TempDir()
	t.Setenv("TMPDIR", scratch)
	line, two := same(1, rates{1000, 1000}), same(2, rates{1000, 1000})
	first := scenario{
		name: "first", rtt: time.Millisecond, site: siteNamed("tiny-1"), limit: time.Minute,
		peers: []run{withRsync(line, line), withTorrent(two, two), withKubo(line, line)},
	}
	next := scenario{
		name: "next", rtt: time.Millisecond, limit: time.Minute,
		site: siteNamed("tiny-1"), next: siteNamed("tiny-2"),
		peers: []run{withRsync(line, line), {viaKubo, line, line, updateWith(kuboProgram)}},
	}
	var logged strings.Builder
	b := &bench{sites: sites, runs: 1, peers: true, log: func(format string, args ...any) {
		t.Logf(format, args...)
		fmt.Fprintf(&logged, format+"\n", args...)
	}}
	reports, err := b.run(t.Context(), []*scenario{&first, &next}, func(report) error { return nil })
	if err != nil || len(reports) != 2 {
		t.Fatalf("%d reports, %v", len(reports), err)
	}
	versions := map[string]string{viaRsync: "rsync  version ", viaTorrent: "libtorrent ", viaKubo: "ipfs version "}
	for _, r := range reports {
		if r.Failed != "" {
			t.Errorf("%s: failed: %s", r.Scenario, r.Failed)
		}
		for _, run := range r.scenario.peers {
			m, ok := r.Runs[run.label]
			switch {
			case !ok && strings.Contains(r.Skipped, run.label+": no "):
				t.Logf("%s: skipped: %s", r.Scenario, r.Skipped)
			case m.Files != 20 || m.Raw == 0 || m.Seconds <= 0 || m.Wire == 0 || m.SeedSent == 0:
				t.Errorf("%s: %s: %+v", r.Scenario, run.label, m)
			case run.label != viaRsync && m.MirrorPeak == 0:
				t.Errorf("%s: %s: memory is not known", r.Scenario, run.label)
			case !strings.Contains(logged.String(), versions[run.label]):
				t.Errorf("no version of %s", run.label)
			}
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestRounds counts how often runs are done, and those of other programs.
func TestRounds(t *testing.T) {
	for _, tt := range []struct {
		asked, least int
		rtt          time.Duration
		runs, peers  int
	}{
		{asked: 1, rtt: time.Millisecond, runs: 1, peers: 1},
		{asked: 1, least: 3, rtt: time.Millisecond, runs: 3, peers: 1},
		{asked: 2, least: 3, rtt: time.Millisecond, runs: 3, peers: 2},
		{asked: 4, least: 3, rtt: time.Millisecond, runs: 4, peers: 4},
		{asked: 1, least: 3, runs: 3, peers: 3},
	} {
		done := make(map[string]int)
		counted := func(label string) []run {
			return []run{{label: label, action: func(context.Context, *world, results) (measure, error) {
				done[label]++
				return measure{}, nil
			}}}
		}
		s := scenario{rtt: tt.rtt, rounds: tt.least, limit: time.Minute}
		s.runs, s.peers = counted(ours), counted(viaRsync)
		b := &bench{runs: tt.asked, peers: true, log: t.Logf}
		if r := b.scenario(t.Context(), &s); r.Failed != "" || done[ours] != tt.runs || done[viaRsync] != tt.peers {
			t.Errorf("%+v: failed %q, done %v", tt, r.Failed, done)
		}
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(nil); err != nil || len(all) != len(scenarios) {
		t.Errorf("%d scenarios, %v", len(all), err)
	}
	if some, err := choose([]string{"update", "one-seed"}); err != nil || len(some) != 2 || some[0].name != "one-seed" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := choose([]string{"one-seed", "no-such"}); err == nil {
		t.Error("an unknown name was taken")
	}
}
