package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
)

// A node that is alone takes keys, and announces them when it meets a peer.
func TestProvideBeforeNetwork(t *testing.T) {
	a := startNode(t, nodeConfig{})
	keys := testKeys(t, "early", 100)
	if err := a.Provide(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "keys kept", func(s Stats) bool { return s.Keys == 100 && s.Announced == 0 })

	c := startNode(t, nodeConfig{})
	if err := a.host.Connect(t.Context(), c.info()); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "keys announced", func(s Stats) bool { return s.Announced >= 100 })
	wantFound(t, c, a.host.ID(), keys[:5])
}

// Keys that are not retained are announced no more, after a restart neither.
func TestRetain(t *testing.T) {
	a := startNode(t, nodeConfig{})
	keys := testKeys(t, "retain", 300)
	if err := a.Provide(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	kept := make(map[string]bool)
	for _, k := range keys[:100] {
		kept[string(k)] = true
	}
	if err := a.Retain(t.Context(), func(k multihash.Multihash) bool { return kept[string(k)] }); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "the others dropped", func(s Stats) bool { return s.Keys == 100 })
	for _, k := range keys {
		found, err := a.keys.Put(t.Context(), k) // returns what was not there
		if err != nil {
			t.Fatal(err)
		}
		if was := len(found) == 0; was != kept[string(k)] {
			t.Fatalf("key kept: %v, want %v", was, kept[string(k)])
		}
	}
}

// The lookup by which the provider finds out whether it is online waits while it
// is not, and fails at once while it is.
func TestPatientRouter(t *testing.T) {
	a := startNode(t, nodeConfig{})
	self := string(a.host.ID())
	r := &patientRouter{dht: a.dht}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.GetClosestPeers(ctx, self); !errors.Is(err, context.Canceled) {
		t.Errorf("offline, cancelled: %v", err)
	}
	if _, err := r.GetClosestPeers(t.Context(), "another key"); err == nil {
		t.Error("offline, another key: no error")
	}
	r.online.Store(true)
	if _, err := r.GetClosestPeers(t.Context(), self); err == nil {
		t.Error("taken to be online, but alone: no error")
	}
	r.online.Store(false)
	found := make(chan error)
	go func() {
		peers, err := r.GetClosestPeers(t.Context(), self)
		if err == nil && len(peers) == 0 {
			err = errors.New("no peers")
		}
		found <- err
	}()
	c := startNode(t, nodeConfig{})
	select {
	case err := <-found:
		t.Fatalf("returned before there was a peer: %v", err)
	default:
	}
	if err := a.host.Connect(t.Context(), c.info()); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
}

// The only peer goes and comes back while there are keys to announce.
func TestNetworkComesBack(t *testing.T) {
	key, dir := newKey(t), filepath.Join(t.TempDir(), "ds")
	c := startNode(t, nodeConfig{key: key, dir: dir})
	addr := c.host.Addrs()[0].String()
	a := startNode(t, via(c))
	if err := a.Provide(t.Context(), testKeys(t, "first", 10)...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "first keys announced", func(s Stats) bool { return s.Announced >= 10 && s.Queued == 0 && s.Regions == 0 })

	c.stop(t)
	keys := testKeys(t, "second", 10)
	if err := a.Provide(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	eventually(t, "A notices that it is alone", func() bool { return !a.router.online.Load() })
	wantStats(t, a, "keys wait", func(s Stats) bool { return s.Queued == 10 })

	c = startNode(t, nodeConfig{key: key, dir: dir, listen: addr})
	wantStats(t, a, "second keys announced", func(s Stats) bool { return s.Queued == 0 && s.Announced >= 20 })
	for _, k := range keys {
		c.wantRecord(t, k, a.host.ID())
	}
}

// After an orderly end nothing is announced again before its time, and still a
// node that joined since, with an empty store, finds the keys.
func TestRestart(t *testing.T) {
	cfg := nodeConfig{key: newKey(t), dir: filepath.Join(t.TempDir(), "ds")}
	c := startNode(t, nodeConfig{})
	cfg.Bootstrap = []peer.AddrInfo{c.info()}
	a := startNode(t, cfg)
	keys := testKeys(t, "site", 200)
	if err := a.Provide(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "announced", func(s Stats) bool { return s.Announced >= 200 && s.Queued == 0 && s.Regions == 0 })
	a.stop(t)
	c.stop(t)

	c = startNode(t, nodeConfig{})
	cfg.Bootstrap = []peer.AddrInfo{c.info()}
	a = startNode(t, cfg)
	b := startNode(t, via(c))
	wantFound(t, b, a.host.ID(), keys[:20])

	more := testKeys(t, "more", 50)
	if err := a.Provide(t.Context(), append(keys, more...)...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "only the new keys announced", func(s Stats) bool {
		return s.Keys == 250 && s.Queued == 0 && s.Regions == 0 && s.Announced >= 50 && s.Announced < 200 && !s.Next.IsZero()
	})
	wantFound(t, b, a.host.ID(), more[:5])

	if err := a.StopProviding(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "keys dropped", func(s Stats) bool { return s.Keys == 50 })
}

// A node that was off for longer than records are refreshed after an orderly end
// announces everything when it is back.
func TestRestartAfterLong(t *testing.T) {
	cfg := nodeConfig{key: newKey(t), dir: filepath.Join(t.TempDir(), "ds")}
	c := startNode(t, nodeConfig{})
	cfg.Bootstrap = []peer.AddrInfo{c.info()}
	a := startNode(t, cfg)
	if err := a.Provide(t.Context(), testKeys(t, "site", 20)...); err != nil {
		t.Fatal(err)
	}
	wantStats(t, a, "announced", func(s Stats) bool { return s.Announced >= 20 && s.Queued == 0 && s.Regions == 0 })
	a.stop(t)

	// The sweeping provider forgets when it visited a part of the DHT once that is
	// longer ago than a visit lasts; here it is made to.
	ds, err := OpenDatastore(cfg.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	visits, err := ds.Query(t.Context(), query.Query{Prefix: "/routing/test/announce/schedule/history", KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := visits.Rest()
	if err != nil || len(entries) == 0 {
		t.Fatalf("no visits noted: %v", err)
	}
	for _, e := range entries {
		if err := ds.Delete(t.Context(), datastore.NewKey(e.Key)); err != nil {
			t.Fatal(err)
		}
	}
	ds.Close()

	a = startNode(t, cfg)
	wantStats(t, a, "announced again", func(s Stats) bool { return s.Announced >= 20 })
}

// A node whose clock was set back since an orderly end announces everything: its notes
// say that it did so in years to come. One whose clock went ahead does so too.
func TestRestartAfterClockJump(t *testing.T) {
	for _, years := range []int{10, -10} {
		cfg := nodeConfig{key: newKey(t), dir: filepath.Join(t.TempDir(), "ds")}
		c := startNode(t, nodeConfig{})
		cfg.Bootstrap = []peer.AddrInfo{c.info()}
		a := startNode(t, cfg)
		if err := a.Provide(t.Context(), testKeys(t, "site", 20)...); err != nil {
			t.Fatal(err)
		}
		wantStats(t, a, "announced", func(s Stats) bool { return s.Announced >= 20 && s.Queued == 0 && s.Regions == 0 })
		a.stop(t)
		moveNotes(t, cfg.dir, time.Now().AddDate(years, 0, 0))

		a = startNode(t, cfg)
		wantStats(t, a, "announced again", func(s Stats) bool { return s.Announced >= 20 && s.Queued == 0 && s.Regions == 0 })
		a.stop(t)
	}
}

// moveNotes makes what an announcer noted of its work look as if it had been done at
// the given time.
func moveNotes(t *testing.T, dir string, at time.Time) {
	t.Helper()
	ds, err := OpenDatastore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer ds.Close()
	const root = "/routing/test/announce/"
	stamp, err := at.MarshalBinary()
	if err == nil {
		err = ds.Put(t.Context(), datastore.NewKey(root+"settled"), stamp)
	}
	if err != nil {
		t.Fatal(err)
	}
	visits, err := ds.Query(t.Context(), query.Query{Prefix: root + "schedule/history", KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := visits.Rest()
	if err != nil || len(entries) == 0 {
		t.Fatalf("no visits noted: %v", err)
	}
	for _, e := range entries {
		// history/SECONDS, in hexadecimal, and a prefix unless that is empty
		rest, _ := strings.CutPrefix(e.Key, root+"schedule/history/")
		_, prefix, _ := strings.Cut(rest, "/")
		moved := datastore.NewKey(fmt.Sprintf("%sschedule/history/%08x/%s", root, at.Unix(), prefix))
		if err := errors.Join(ds.Delete(t.Context(), datastore.NewKey(e.Key)), ds.Put(t.Context(), moved, nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that ended before everything was announced, in order or not, announces
// all at the next start, also in parts of the DHT that were refreshed just now.
func TestUnfinishedIsAnnounced(t *testing.T) {
	for _, crash := range []bool{false, true} {
		cfg := nodeConfig{key: newKey(t), dir: filepath.Join(t.TempDir(), "ds")}
		c := startNode(t, nodeConfig{})
		cfg.Bootstrap = []peer.AddrInfo{c.info()}
		a := startNode(t, cfg)
		if err := a.Provide(t.Context(), testKeys(t, "old", 20)...); err != nil {
			t.Fatal(err)
		}
		wantStats(t, a, "announced", func(s Stats) bool { return s.Announced >= 20 && s.Queued == 0 && s.Regions == 0 })
		a.stop(t)
		c.stop(t)

		cfg.Bootstrap = nil
		a = startNode(t, cfg)
		keys := testKeys(t, "new", 20)
		if err := a.Provide(t.Context(), keys...); err != nil {
			t.Fatal(err)
		}
		if crash {
			// What a killed process leaves: the files as they are when Provide returned.
			image := filepath.Join(t.TempDir(), "image")
			if err := os.CopyFS(image, os.DirFS(cfg.dir)); err != nil {
				t.Fatal(err)
			}
			cfg.dir = image
		}
		a.stop(t)

		c = startNode(t, nodeConfig{})
		cfg.Bootstrap = []peer.AddrInfo{c.info()}
		a = startNode(t, cfg)
		wantStats(t, a, "all announced", func(s Stats) bool { return s.Keys == 40 && s.Announced >= 40 })
		c.wantRecord(t, keys[0], a.host.ID())
		a.stop(t)
		c.stop(t)
	}
}
