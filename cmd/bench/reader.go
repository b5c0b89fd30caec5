//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	bulkUnderWay = 1 << 20  // bytes that reach the mirror before the first page is asked for
	largestPage  = 64 << 10 // bytes; larger ones measure the line
)

// readWith brings the site to the mirror while a reader opens one page of it after the other
// at the mirror's gateway, in random order, until it is whole.
//
// A page that came within less than a round-trip time was there already. The
// percentiles are of the others.
func readWith(p program) func(context.Context, *world, results) (measure, error) {
	return func(ctx context.Context, w *world, _ results) (measure, error) { return w.read(ctx, p) }
}

func (w *world) read(ctx context.Context, p program) (measure, error) {
	if err := p.start(ctx, w); err != nil {
		return measure{}, err
	}
	pages, err := pagesOf(w.site)
	if err != nil {
		return measure{}, err
	}
	mirror := w.mirrors[0]
	var fetched []time.Duration
	m, err := w.transfer(ctx, p, func(ctx context.Context) error {
		if !mirror.awaitTraffic(ctx, bulkUnderWay) {
			return nil
		}
		client := mirror.browser()
		defer client.CloseIdleConnections()
		for _, page := range pages {
			took, err := mirror.read(ctx, client, w.seeds[0].root, page)
			if ctx.Err() != nil {
				return nil // the site is whole
			}
			if err != nil {
				return err
			}
			if took >= w.scenario.rtt {
				fetched = append(fetched, took)
			}
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	if len(fetched) == 0 {
		return m, errors.New("no page had to be fetched")
	}
	slices.Sort(fetched)
	m.Pages = len(fetched)
	m.PageP50 = percentile(fetched, 50).Seconds()
	m.PageP95 = percentile(fetched, 95).Seconds()
	return m, nil
}

// percentile returns the least of sorted values that p of 100 do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}

// pagesOf lists the HTML files of a site that are no larger than largestPage, as URL
// paths, in an order that is random and always the same.
func pagesOf(dir string) ([]string, error) {
	var pages []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".html" {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() > largestPage {
			return err
		}
		// An index.html redirects to its directory.
		if name := strings.TrimPrefix(path, dir); d.Name() != "index.html" && !strings.Contains(name, "/.") {
			pages = append(pages, (&url.URL{Path: filepath.ToSlash(name)}).EscapedPath())
		}
		return nil
	})
	rand.New(rand.NewPCG(1, 0)).Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
	return pages, err
}

// browser returns an HTTP client on the machine.
func (m *machine) browser() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		gateway, err := url.Parse(m.Gateway)
		if err != nil {
			return nil, err
		}
		err = m.ns.do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, gateway.Host)
			return err
		})
		return conn, err
	}}}
}

// read opens a page of a site, and returns the time until all of it was there.
func (m *machine) read(ctx context.Context, client *http.Client, root, page string) (time.Duration, error) {
	start := time.Now()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(m.Gateway, "http://"))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+root+".ipfs.localhost:"+port+page, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s after %v", req.URL, resp.Status, time.Since(start))
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return time.Since(start), err
}
