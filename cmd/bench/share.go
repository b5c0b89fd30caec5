//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"pollux/node/api"
)

// followBoth mirrors the site and the one beside it at once: on one mirror both, on two
// one each.
//
// Until the first is whole, half of what reached the mirrors is each one's fair share.
// What came for the first is known when it is whole, the rest was for the other; frames,
// headers and acknowledgements count in proportion.
func followBoth(ctx context.Context, w *world, _ results) (measure, error) {
	if err := startAll(ctx, w); err != nil {
		return measure{}, err
	}
	roots := w.seeds[0].roots
	if len(roots) != 2 || roots[0] == roots[1] {
		return measure{}, fmt.Errorf("the seed has the sites %q, want two", roots)
	}
	meter, err := w.meter()
	if err != nil {
		return measure{}, err
	}
	var (
		mu    sync.Mutex // guards those below
		first int64      // bytes that had reached the mirrors when the first was whole
		came  []int64    // for each site, the first that was whole first
	)
	sites, ctx := errgroup.WithContext(ctx)
	for i, root := range roots {
		mirror := w.mirrors[i%len(w.mirrors)]
		sites.Go(func() error {
			var got api.FollowResult
			if err := mirror.pollux(ctx, &got, "follow", root, "--wait"); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if came = append(came, got.Received); len(came) > 1 {
				return nil
			}
			_, received, err := w.traffic()
			first = received - meter.received
			return err
		})
	}
	if err := sites.Wait(); err != nil {
		return measure{}, err
	}
	m, err := meter.read()
	if err != nil {
		return m, err
	}
	w.peaks(&m)
	m.Received = (came[0] + came[1]) / int64(len(w.mirrors))
	m.Share, err = leastShare(first, m.Wire*int64(len(w.mirrors)), came[0], came[1])
	return m, err
}

// leastShare returns what part of its fair share the site got that got less, until the
// first was whole: by then so many bytes of all had come. a and b are what came for the
// first and for the other, without headers.
func leastShare(first, all, a, b int64) (float64, error) {
	if first <= 0 || all < first || a <= 0 || b <= 0 {
		return 0, errors.New("nothing came for one of the sites")
	}
	faster := float64(a) / float64(a+b) * float64(all) / float64(first)
	return 2 * max(min(faster, 1-faster), 0), nil
}
