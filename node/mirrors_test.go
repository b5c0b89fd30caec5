package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pollux/node/api"
)

// runNode runs a node on the loopback until the test ends.
func runNode(t *testing.T, bootstrap ...string) (*Node, Ready) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Network, cfg.MDNS, cfg.PortMapping, cfg.Gateway = "test", false, false, None
	cfg.Listen, cfg.Bootstrap = []string{"/ip4/127.0.0.1/tcp/0"}, append([]string{}, bootstrap...)
	if len(bootstrap) == 0 {
		cfg.Bootstrap = []string{None}
	}
	n, err := Open(t.Context(), t.TempDir(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan Ready, 1)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, func(r Ready) { ready <- r }) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, n.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case r := <-ready:
		return n, r
	case err := <-done:
		done <- err
		t.Fatal(err)
		return nil, Ready{}
	}
}

// TestMirrors asks who holds a site, as a node that holds it and as one that does not. That
// one keeps nothing of it.
func TestMirrors(t *testing.T) {
	dir := t.TempDir()
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Append(nil, "page ", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a, ready := runNode(t)
	b, _ := runNode(t, ready.Addrs...)
	added, err := a.Add(t.Context(), api.AddRequest{Path: api.Raw(dir)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Connect(t.Context(), ready.Addrs[0]); err != nil {
		t.Fatal(err)
	}
	mirrors := func(n *Node) api.MirrorsResult {
		t.Helper()
		var last api.Progress
		res, err := n.Mirrors(t.Context(), api.MirrorsRequest{Target: added.Root, Timeout: time.Minute}, func(p api.Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Mirrors) > 0 && (last.Phase != "hearing" || last.Peers == 0) {
			t.Errorf("last progress: %+v", last)
		}
		return res
	}
	res := mirrors(b)
	if len(res.Mirrors) != 1 || res.Whole {
		t.Fatalf("%+v", res)
	}
	if m := res.Mirrors[0]; m.Peer != ready.Peer || m.State != api.MirrorFull || m.Share != 1 || m.RTTMS <= 0 || len(m.Addrs) == 0 {
		t.Errorf("%+v", m)
	}
	if len(b.sites.all()) > 0 || b.store.Stats().Blocks != 1 {
		t.Errorf("sites %+v, store %+v", b.sites.all(), b.store.Stats())
	}
	if _, err := b.GC(t.Context(), nil); err != nil || b.store.Stats().Blocks != 0 {
		t.Errorf("after a collection: %v, %+v", err, b.store.Stats())
	}
	// To the publisher, who asked is no mirror; nor does it list itself.
	if res := mirrors(a); len(res.Mirrors) != 0 || !res.Whole {
		t.Errorf("%+v", res)
	}
	if _, err := b.Follow(t.Context(), api.FollowRequest{Target: added.Root, Wait: true, Timeout: time.Minute}, nil); err != nil {
		t.Fatal(err)
	}
	if res := mirrors(a); len(res.Mirrors) != 1 || res.Mirrors[0].State != api.MirrorFull {
		t.Errorf("%+v", res)
	}
	for _, target := range []string{"example.org", added.Root + "/1"} {
		if _, err := a.Mirrors(t.Context(), api.MirrorsRequest{Target: target}, nil); !errors.Is(err, api.ErrUsage) {
			t.Errorf("%s: %v", target, err)
		}
	}
}
