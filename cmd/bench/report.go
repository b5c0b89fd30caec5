//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// report is what came out of a scenario.
type report struct {
	scenario *scenario
	Scenario string    `json:"scenario"`
	About    string    `json:"about"`
	Skipped  string    `json:"skipped,omitempty"` // why it, or a part of it, was not run
	Failed   string    `json:"failed,omitempty"`  // what went wrong
	Runs     results   `json:"runs"`
	Asks     []verdict `json:"asks"`
}

// verdict is what became of an ask.
type verdict struct {
	Asked   string   `json:"asked"`
	Got     *float64 `json:"got"`   // nil if a run is missing
	Limit   *float64 `json:"limit"` // nil if it follows from a run that is missing
	Unit    string   `json:"unit"`
	Verdict string   `json:"verdict"` // "met", "missed" or "unknown"
}

// fail notes why a run, or without a label the whole scenario, has no result.
func (r *report) fail(label string, err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if label != "" {
		text = label + ": " + text
	}
	to := &r.Failed
	if skip := skipError(""); errors.As(err, &skip) {
		to = &r.Skipped
	}
	if *to != "" {
		*to += "; "
	}
	*to += text
}

// judge fills in Asks.
func (r *report) judge() {
	for _, a := range r.scenario.asks {
		v := verdict{Asked: a.text, Unit: a.unit, Verdict: a.verdict(r.Runs)}
		got, limit := a.figure(r.Runs)
		if !math.IsNaN(got) {
			v.Got = &got
		}
		if !math.IsNaN(limit) {
			v.Limit = &limit
			sign := "≤"
			if a.least {
				sign = "≥"
			}
			v.Asked = fmt.Sprintf("%s %s %s %s", a.text, sign, number(limit), a.unit)
		}
		r.Asks = append(r.Asks, v)
	}
}

// printJSON writes a report on one line.
func printJSON(w io.Writer, r report) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// printTables writes Markdown: what was asked, and what the runs measured.
func printTables(w io.Writer, reports []report) error {
	asked := [][]string{{"Scenario", "Asked", "Measured", ""}}
	ran := [][]string{{"Scenario", "Run", "Time", "Wire", "Wire / raw", "Received", "Seeds sent", "Peak seed", "Peak mirror", "Pages p50 / p95"}}
	for _, r := range reports {
		for _, v := range r.Asks {
			got := "-"
			if v.Got != nil {
				got = number(*v.Got) + " " + v.Unit
			}
			asked = append(asked, []string{r.Scenario, v.Asked, got, v.Verdict})
		}
		if r.Skipped != "" {
			asked = append(asked, []string{r.Scenario, "", "skipped: " + r.Skipped, ""})
		}
		if r.Failed != "" {
			asked = append(asked, []string{r.Scenario, "", "failed: " + r.Failed, ""})
		}
		for _, run := range slices.Concat(r.scenario.runs, r.scenario.peers) {
			m, ok := r.Runs[run.label]
			if !ok {
				continue
			}
			pages := "-"
			if m.Pages > 0 {
				pages = fmt.Sprintf("%.0f / %.0f ms of %d", 1000*m.PageP50, 1000*m.PageP95, m.Pages)
			}
			ran = append(ran, []string{r.Scenario, run.label, fmt.Sprintf("%.2f s", m.Seconds), megabytes(m.Wire),
				fmt.Sprintf("%.4f", float64(m.Wire)/float64(m.Raw)), megabytes(m.Received), megabytes(m.SeedSent),
				megabytes(m.SeedPeak), megabytes(m.MirrorPeak), pages})
		}
	}
	if err := printTable(w, asked); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printTable(w, ran)
}

// printTable writes rows, of which the first is the heading, in aligned columns.
func printTable(w io.Writer, rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		for j, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("|\n")
		if i == 0 {
			for _, n := range widths {
				b.WriteString("|" + strings.Repeat("-", n+2))
			}
			b.WriteString("|\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// number writes a figure with three digits that count, and whole ones in full.
func number(f float64) string {
	if math.Abs(f) >= 100 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f MB", float64(n)/1e6)
}
