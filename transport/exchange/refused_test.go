package exchange

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
)

// managed limits what the sync protocol may use of a host.
func managed(t testing.TB, limits rcmgr.ResourceLimits) libp2p.Option {
	t.Helper()
	all := rcmgr.PartialLimitConfig{Service: map[string]rcmgr.ResourceLimits{Service: limits}}
	fixed := rcmgr.NewFixedLimiter(all.Build(rcmgr.InfiniteLimits))
	m, err := rcmgr.NewResourceManager(fixed, rcmgr.WithMetricsDisabled())
	if err != nil {
		t.Fatal(err)
	}
	return libp2p.ResourceManager(m)
}

// inUse is what the sync protocol uses of the node's host.
func (n *node) inUse(t testing.TB) (stat network.ScopeStat) {
	t.Helper()
	err := n.Network().ResourceManager().ViewService(Service, func(s network.ServiceScope) error {
		stat = s.Stat()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return stat
}

// TestProviderRefuses has a provider's resource manager refuse streams, or the memory for
// answers. Nothing is left of what it refused, nobody is blamed, and the fetch goes on with
// another.
func TestProviderRefuses(t *testing.T) {
	for name, limits := range map[string]rcmgr.ResourceLimits{
		"streams": {StreamsInbound: rcmgr.BlockAllLimit},
		"memory":  {Memory: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := newTree(95, 10, 40)
			store := newStore(t)
			if err := store.Put(site.blocks...); err != nil {
				t.Fatal(err)
			}
			tight := nodeOn(t, newHost(t, managed(t, limits)), store, store)
			free, mirror := newNode(t, site.blocks...), newNode(t)
			req := Request{Root: site.root(), Timeout: 500 * time.Millisecond}
			_, err := mirror.fetch(limit(t), req, tight.info())
			if e, ok := errors.AsType[*UnreachableError](err); !ok || e.Asked != 1 || e.Limit != nil {
				t.Errorf("from that peer alone: %v", err)
			}
			req.Timeout = 0
			if _, err := mirror.fetch(limit(t), req, tight.info(), free.info()); err != nil {
				t.Fatal(err)
			}
			mirror.checkHeld(t, site.blocks)
			if mirror.client.bans.has(tight.ID()) || mirror.client.bans.has(free.ID()) {
				t.Error("somebody is banned")
			}
			quiet(t, tight.server, free.server)
			if s := tight.inUse(t); s.Memory != 0 || s.NumStreamsInbound != 0 {
				t.Errorf("in use when nobody is served: %+v", s)
			}
		})
	}
}

// TestFetcherRefuses has the fetcher's own resource manager refuse streams: one is enough, and
// without any the error says what to do.
func TestFetcherRefuses(t *testing.T) {
	site := newTree(96, 10, 40)
	a, b := newNode(t, site.blocks...), newNode(t, site.blocks...)
	mirror := func(t *testing.T, streams rcmgr.LimitVal) *node {
		store := newStore(t)
		h := newHost(t, managed(t, rcmgr.ResourceLimits{StreamsOutbound: streams}))
		return nodeOn(t, h, store, store)
	}
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		m := mirror(t, rcmgr.BlockAllLimit)
		const timeout = 500 * time.Millisecond
		_, err := m.fetch(limit(t), Request{Root: site.root(), Timeout: timeout}, a.info(), b.info())
		e, ok := errors.AsType[*UnreachableError](err)
		if !ok || !errors.Is(e.Limit, network.ErrResourceLimitExceeded) {
			t.Fatalf("got %v", err)
		}
		if !strings.Contains(err.Error(), "fetch fewer sites at a time") {
			t.Errorf("%v does not say what to do", err)
		}
		candidates := make(chan Candidate, 1)
		candidates <- Candidate{a.info(), true}
		err = m.client.Get(limit(t), GetRequest{Store: m.store, CID: site.root(), Timeout: timeout}, candidates)
		e, ok = errors.AsType[*UnreachableError](err)
		if !ok || !errors.Is(e.Limit, network.ErrResourceLimitExceeded) {
			t.Errorf("got %v", err)
		}
		if s := m.inUse(t); s.Memory != 0 || s.NumStreamsOutbound != 0 {
			t.Errorf("in use when nothing is fetched: %+v", s)
		}
	})
	t.Run("but one", func(t *testing.T) {
		t.Parallel()
		m := mirror(t, 1)
		res, err := m.fetch(limit(t), Request{Root: site.root()}, a.info(), b.info())
		if err != nil {
			t.Fatal(err)
		}
		m.checkHeld(t, site.blocks)
		if res.Peers != 1 || m.client.bans.has(a.ID()) || m.client.bans.has(b.ID()) {
			t.Errorf("%d peers gave something, or somebody is banned", res.Peers)
		}
		quiet(t, m.server)
		if s := m.inUse(t); s.Memory != 0 || s.NumStreamsOutbound != 0 {
			t.Errorf("in use when nothing is fetched: %+v", s)
		}
	})
}
