//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"pollux/node/api"
)

// follow mirrors the site, on all mirrors at once.
func follow(ctx context.Context, w *world, _ results) (measure, error) {
	if err := w.startAll(ctx); err != nil {
		return measure{}, err
	}
	return w.follow(ctx, nil)
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

// update mirrors the next version where the first one is whole. Only that counts.
func update(ctx context.Context, w *world, r results) (measure, error) {
	if _, err := follow(ctx, w, r); err != nil {
		return measure{}, err
	}
	if err := w.seeds[0].add(ctx, w.next); err != nil {
		return measure{}, err
	}
	if err := w.settle(ctx); err != nil {
		return measure{}, err
	}
	return w.follow(ctx, nil)
}

// add adds a site where the daemon runs already.
func (m *machine) add(ctx context.Context, dir string) error {
	var added api.AddResult
	err := m.pollux(ctx, &added, "add", dir)
	m.root = added.Root
	return err
}

// followAndSignal mirrors the site, and sends the last seed a signal when half of what
// reached the mirror in the undisturbed run has reached it.
func followAndSignal(sig syscall.Signal) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, r results) (measure, error) {
		half := r[undisturbed].Wire / 2
		if half == 0 {
			return measure{}, errors.New("without the undisturbed run it is not known where the middle is")
		}
		if err := w.startAll(ctx); err != nil {
			return measure{}, err
		}
		victim, sent := w.seeds[len(w.seeds)-1], false
		m, err := w.follow(ctx, func(ctx context.Context) error {
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

// follow runs `pollux follow ROOT --wait` on all mirrors, for the site that the first
// seed added last, and beside it also, whose ctx ends with it.
func (w *world) follow(ctx context.Context, also func(context.Context) error) (m measure, err error) {
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
	root := w.seeds[0].root
	got := make([]api.FollowResult, len(w.mirrors))
	mirrors, mirrorsCtx := errgroup.WithContext(ctx)
	for i, n := range w.mirrors {
		mirrors.Go(func() error {
			err := n.pollux(mirrorsCtx, &got[i], "follow", root, "--wait")
			if err == nil && (got[i].Root != root || got[i].Blocks == 0) {
				err = fmt.Errorf("%s: followed %s and mirrored %+v", n.name, root, got[i])
			}
			return err
		})
	}
	err = mirrors.Wait()
	m, meterErr := meter.read()
	end()
	if err := errors.Join(err, meterErr, beside.Wait()); err != nil {
		return m, err
	}
	for _, g := range got {
		m.Received += g.Received / int64(len(got))
	}
	w.peaks(&m)
	return m, nil
}
