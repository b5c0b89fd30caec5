//go:build linux

// Command bench runs transfers between real nodes, over an emulated wide-area network
// or loopback, and prints what they took beside what is asked of them. It has to be
// root, and needs /dev/net/tun and ip(8). docs/benchmarks.md describes it.
//
//	go run ./cmd/bench -list
//	go run ./cmd/bench -sites DIR [-runs N] [-peers=false] [-json] [SCENARIO...]
//
// The exit code is 0 if everything could be measured, whatever came out, and 1 if a
// run failed. Results go to standard output, progress and failures to standard error.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := command(ctx)
	stop()
	os.Exit(code)
}

func command(ctx context.Context) (code int) {
	sites := flag.String("sites", "", "`directory` of sites: jdk-1, jdk-2, python-1, ...")
	list := flag.Bool("list", false, "describe the scenarios, and run none")
	asJSON := flag.Bool("json", false, "print one JSON object a line for each scenario")
	peers := flag.Bool("peers", true, "run other programs too: rsync, libtorrent, Kubo")
	runs := flag.Int("runs", 1, "do each run `N` times (some at least 3), and show the one of median time")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Usage: bench [flags] [SCENARIO...]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	chosen, err := choose(flag.Args())
	switch {
	case err != nil:
		return usage(err)
	case *runs < 1:
		return usage(errors.New("-runs: at least 1"))
	case *list:
		for _, s := range chosen {
			fmt.Printf("%-15s %s\n", s.name, s.about)
		}
		return 0
	}
	b := &bench{runs: *runs, peers: *peers, log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	if *sites != "" {
		if b.sites, err = filepath.Abs(*sites); err != nil {
			return usage(err)
		}
	}
	reports, err := b.run(ctx, chosen, func(r report) error {
		if *asJSON {
			return printJSON(os.Stdout, r)
		}
		return nil
	})
	if !*asJSON {
		err = errors.Join(err, printTables(os.Stdout, reports))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	for _, r := range reports {
		if r.Failed != "" {
			return 1
		}
	}
	return 0
}

func usage(err error) int {
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 2
}

// choose returns the scenarios of these names, all if there are none.
func choose(names []string) ([]*scenario, error) {
	var out []*scenario
	for i := range scenarios {
		if s := &scenarios[i]; len(names) == 0 || slices.Contains(names, s.name) {
			out = append(out, s)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(out, func(s *scenario) bool { return s.name == name }) {
			return nil, fmt.Errorf("no scenario %q; see -list", name)
		}
	}
	return out, nil
}

// bench runs scenarios.
type bench struct {
	sites   string // directory of sites, or ""
	runs    int    // of each run
	peers   bool   // other programs run too
	log     func(format string, args ...any)
	scratch string // for sites that are made
	bin     string // the pollux program
}

// run runs scenarios one after the other, and calls each with every report. One that
// fails does not keep the next from running; ctx's end does.
func (b *bench) run(ctx context.Context, chosen []*scenario, each func(report) error) (reports []report, err error) {
	if b.scratch, err = os.MkdirTemp("", "pollux-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.scratch)) }()
	b.bin = filepath.Join(b.scratch, "pollux")
	// The program as it is installed, whatever GOFLAGS are.
	build := exec.CommandContext(ctx, "go", "build", "-race=false", "-trimpath", "-o", b.bin, "pollux/cmd/pollux")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build pollux: %w: %s", err, out)
	}
	if slices.ContainsFunc(chosen, func(s *scenario) bool { return s.hostile != rates{} }) {
		if err := buildHostile(ctx, b.scratch); err != nil {
			return nil, err
		}
	}
	if b.peers {
		b.logVersions(ctx)
	}
	for _, s := range chosen {
		r := b.scenario(ctx, s)
		if ctx.Err() != nil {
			return reports, errors.New("interrupted")
		}
		if r.Failed != "" {
			b.log("%s: failed: %s", s.name, r.Failed)
		}
		reports = append(reports, r)
		if err := each(r); err != nil {
			return reports, err
		}
	}
	return reports, nil
}

// logVersions logs the versions of the other programs that are here.
func (b *bench) logVersions(ctx context.Context) {
	for _, command := range [][]string{
		{"rsync", "--version"},
		{debianPython, "-c", "import libtorrent; print('libtorrent', libtorrent.__version__)"},
		{"ipfs", "version"},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output(); err == nil {
			version, _, _ := strings.Cut(string(out), "\n")
			b.log("%s", version)
		}
	}
}

func (b *bench) scenario(ctx context.Context, s *scenario) report {
	r := report{scenario: s, Scenario: s.name, About: s.about, Runs: results{}, Asks: []verdict{}}
	var sites sites
	err := sites.find(s, b.sites, b.scratch)
	if err != nil {
		r.fail("", err)
		return r
	}
	all := s.runs
	if b.peers {
		all = slices.Concat(s.runs, s.peers)
	}
	// In rounds, so that what changes on the machine meanwhile changes for all runs.
	got, failed := make(map[string][]measure), make(map[string]bool)
	rounds := max(b.runs, s.rounds)
	for n := range rounds {
		round := results{}
		for i := range all {
			run := &all[i]
			if failed[run.label] {
				continue // the other rounds must not hide it
			}
			if i >= len(s.runs) && n >= b.runs && s.rtt > 0 {
				continue // no ask is about it
			}
			b.log("%s: %s (%d of %d)", s.name, run.label, n+1, rounds)
			m, err := b.measure(ctx, s, run, sites, round)
			if err != nil {
				r.fail(run.label, err)
				failed[run.label] = true
				continue
			}
			round[run.label] = m
			got[run.label] = append(got[run.label], m)
		}
	}
	for label, measures := range got {
		if !failed[label] {
			slices.SortFunc(measures, func(x, y measure) int { return cmp.Compare(x.Seconds, y.Seconds) })
			r.Runs[label] = measures[len(measures)/2]
		}
	}
	r.judge()
	return r
}

// measure does one run in a world of its own.
func (b *bench) measure(ctx context.Context, s *scenario, run *run, sites sites, earlier results) (m measure, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, fmt.Errorf("not done within %v", s.limit))
	defer cancel()
	w, err := newWorld(s, run, b.bin)
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return m, err
	}
	w.sites = sites
	m, err = run.action(ctx, w, earlier)
	if skip := skipError(""); err != nil && !errors.As(err, &skip) {
		err = errors.Join(err, w.complaints())
	}
	return m, err
}

// complaints are what daemons that ended by themselves said last.
func (w *world) complaints() error {
	var errs []error
	for _, m := range w.machines() {
		if m.daemon == nil {
			continue
		}
		select {
		case <-m.daemon.done:
			errs = append(errs, fmt.Errorf("%s ended: %v: %s", m.name, m.daemon.err, lastLine(m.daemon.stderr.String())))
		default:
		}
	}
	return errors.Join(errs...)
}
