//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pollux/node/api"
)

// A program moves sites between machines: Pollux, or one that it is compared with.
type program struct {
	// start runs the seeds, which hold the sites, and the mirrors.
	start func(context.Context, *world) error
	// add has the first seed hold the next version too. nil: the program knows no versions.
	add func(context.Context, *world) error
	// fetch brings the site that was added last to a mirror.
	fetch func(context.Context, *world, *machine) (fetched, error)
}

// fetched is what a program itself says of a transfer. 0 is what it does not.
type fetched struct {
	received int64   // bytes
	seconds  float64 // without the start of a process that is a daemon elsewhere
	peak     int64   // of memory, if it is not that of the machine's daemon
}

// polluxProgram follows with --wait.
var polluxProgram = program{start: startAll, add: addNext, fetch: followOn}

// follow mirrors the site, on all mirrors at once.
func follow(ctx context.Context, w *world, r results) (measure, error) {
	return fetchWith(polluxProgram)(ctx, w, r)
}

// fetchWith brings the site to all mirrors at once.
func fetchWith(p program) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, _ results) (measure, error) {
		if err := p.start(ctx, w); err != nil {
			return measure{}, err
		}
		return w.transfer(ctx, p, nil)
	}
}

// followCold mirrors the site where the seeds have to read it from the disk.
func followCold(ctx context.Context, w *world, _ results) (measure, error) {
	if err := startAll(ctx, w); err != nil {
		return measure{}, err
	}
	for _, m := range w.seeds {
		if err := m.dropCached(); err != nil {
			return measure{}, err
		}
	}
	return w.transfer(ctx, polluxProgram, nil)
}

// followAndCompare mirrors the site, and then compares what the mirror has with what
// the seed added.
func followAndCompare(ctx context.Context, w *world, r results) (measure, error) {
	m, err := follow(ctx, w, r)
	if err != nil {
		return m, err
	}
	mirror, out := w.mirrors[0], filepath.Join(w.dir, "out")
	var got api.FetchResult
	if err := mirror.pollux(ctx, &got, "get", w.seeds[0].root, "-o", out); err != nil {
		return m, err
	}
	// An add leaves out names that start with a dot.
	_, err = mirror.exec(ctx, "diff", "-rq", "--no-dereference", "--exclude=.*", w.site, out)
	return m, err
}

// updateWith brings the next version where the first one is whole. Only that counts.
func updateWith(p program) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, r results) (measure, error) {
		if _, err := fetchWith(p)(ctx, w, r); err != nil {
			return measure{}, err
		}
		if err := p.add(ctx, w); err != nil {
			return measure{}, err
		}
		return w.transfer(ctx, p, nil)
	}
}

// addNext adds the next version on the first seed, and waits until it is announced.
func addNext(ctx context.Context, w *world) error {
	if err := w.seeds[0].add(ctx, w.next); err != nil {
		return err
	}
	return w.settle(ctx)
}

// add adds a site where the daemon runs already.
func (m *machine) add(ctx context.Context, dir string) error {
	var added api.AddResult
	err := m.pollux(ctx, &added, "add", dir)
	m.root = added.Root
	return err
}

// disturb brings the site to the mirror, and sends the last seed a signal when half of what
// reached the mirror in the undisturbed run has reached it.
func disturb(p program, undisturbed string, sig syscall.Signal) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, r results) (measure, error) {
		half := r[undisturbed].Wire / 2
		if half == 0 {
			return measure{}, errors.New("without the undisturbed run it is not known where the middle is")
		}
		if err := p.start(ctx, w); err != nil {
			return measure{}, err
		}
		victim, sent := w.seeds[len(w.seeds)-1], false
		m, err := w.transfer(ctx, p, func(ctx context.Context) error {
			if !w.mirrors[0].awaitTraffic(ctx, half) {
				return nil
			}
			sent = true
			return victim.daemon.cmd.Process.Signal(sig)
		})
		if err == nil && !sent {
			err = errors.New("the site was whole before the middle, and no seed was disturbed")
		}
		return m, err
	}
}

// awaitTraffic waits until n more bytes have reached the machine, or ctx ends.
func (m *machine) awaitTraffic(ctx context.Context, n int64) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := m.end.received.Load() + n; m.end.received.Load() < until; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// transfer brings the site that was added last to all mirrors, with also beside it, whose
// ctx ends with it.
func (w *world) transfer(ctx context.Context, p program, also func(context.Context) error) (m measure, err error) {
	meter, err := w.meter()
	if err != nil {
		return m, err
	}
	besideCtx, end := context.WithCancel(ctx)
	defer end()
	var beside errgroup.Group
	if also != nil {
		beside.Go(func() error { return also(besideCtx) })
	}
	got := make([]fetched, len(w.mirrors))
	mirrors, mirrorsCtx := errgroup.WithContext(ctx)
	for i, n := range w.mirrors {
		mirrors.Go(func() (err error) {
			got[i], err = p.fetch(mirrorsCtx, w, n)
			return err
		})
	}
	err = mirrors.Wait()
	m, meterErr := meter.read()
	end()
	if err := errors.Join(err, meterErr, beside.Wait()); err != nil {
		return m, err
	}
	w.peaks(&m)
	said := 0.0
	for _, g := range got {
		m.Received += g.received / int64(len(got))
		m.MirrorPeak = max(m.MirrorPeak, g.peak)
		said = max(said, g.seconds)
	}
	m.Seconds = cmp.Or(said, m.Seconds)
	return m, nil
}

// followOn runs `pollux follow ROOT --wait` on a mirror, for the site that the first seed
// added last.
func followOn(ctx context.Context, w *world, n *machine) (fetched, error) {
	var got api.FollowResult
	root := w.seeds[0].root
	err := n.pollux(ctx, &got, "follow", root, "--wait")
	if err == nil && (got.Root != root || got.Blocks == 0) {
		err = fmt.Errorf("%s: followed %s and mirrored %+v", n.name, root, got)
	}
	return fetched{received: got.Received}, err
}
