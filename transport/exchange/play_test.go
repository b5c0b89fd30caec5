package exchange

import (
	"bufio"
	"bytes"
	"context"
	flags "flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
	"pollux/dag"
)

// What TestPlay is told.
var (
	playSite  = flags.String("play.site", "", "`directory` of the site that the peers say they hold")
	playBase  = flags.String("play.base", "", "`directory` of the version before, if the mirror holds that")
	playStore = flags.String("play.store", "", "empty `directory` to keep it in")
	playAt    = flags.String("play.at", "", "`multiaddr` to listen at")
	playPeers = flags.String("play.peers", "", "`multiaddrs` of the mirror and of others, with commas between")
	playKinds = flags.String("play.kinds", "", "`names` of what the peers do, with semicolons between, in turns")
	playCount = flags.Int("play.count", 1, "how many peers")
)

// TestPlay is the hostile peers of a benchmark, all in one process, until that is killed.
// They connect to the mirror, and say so in a line with the root of the site.
func TestPlay(t *testing.T) {
	if *playSite == "" {
		t.Skip("for cmd/bench, which says where to play")
	}
	dir, err := blockstore.Dir(*playStore)
	if err != nil {
		t.Fatal(err)
	}
	store, err := blockstore.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	site, err := dag.Import(t.Context(), store, *playSite, dag.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	base := cid.Undef
	if *playBase != "" {
		before, err := dag.Import(t.Context(), store, *playBase, dag.ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		base = before.Root
	}
	var peers []peer.AddrInfo
	for _, addr := range strings.Split(*playPeers, ",") {
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, *info)
	}
	o, err := buildOrder(t.Context(), store, site.Root, base)
	if err != nil {
		t.Fatal(err)
	}
	kinds := plays(t, strings.Split(*playKinds, ";"))
	for i := range *playCount {
		k := kinds[i%len(kinds)]
		a := actorOn(t, newHostAt(t, *playAt), k.script, store, o)
		if err := a.Connect(t.Context(), peers[0]); err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			for range k.streams {
				go a.ask(t.Context(), p, k)
			}
		}
	}
	fmt.Println("playing", site.Root)
	select {}
}

// A play is what a hostile peer does: it follows a script where it is asked, and may ask.
type play struct {
	script
	asks    func(a *actor) []byte // of each of the others, after OPEN
	times   int                   // on a stream, in one write
	streams int                   // at a time
	reads   bool                  // the answers, before it begins again
}

// plays returns those of the given names, of scripts and of those that need their time.
// None sends all leaves as it should, which would only help.
func plays(t *testing.T, names []string) (out []play) {
	all := slowPlays()
	for _, s := range scripts() {
		all = append(all, play{script: s})
	}
	for _, name := range names {
		i := slices.IndexFunc(all, func(p play) bool { return p.name == name })
		if i < 0 {
			t.Fatalf("nobody plays %q", name)
		}
		if all[i].want == nil && all[i].cut == nil {
			all[i].want = func(*actor, []span) []byte { return nil }
		}
		out = append(out, all[i])
	}
	return out
}

// slowPlays take too long for tests, or take others that are honest.
func slowPlays() []play {
	const byteTime = 10 * time.Second
	first := func(a *actor) []span { return []span{a.order.segmentSpan(0)} }
	absent := func(*actor, open) []byte { return appendOpened(nil, opened{}) }
	return []play{
		{script: script{name: "a byte in 10 s", drip: byteTime, hello: func(a *actor) []byte {
			return append(appendFrame(nil, frameHello), a.opens(open{})...)
		}}},
		{script: script{name: "a byte in 10 s, of nodes", drip: byteTime,
			list: func(a *actor, l list) []byte { return a.nodes(l) }}},
		{script: script{name: "a byte in 10 s, of leaves", drip: byteTime,
			want: func(a *actor, s []span) []byte { return a.leaves(s) }}},
		{script: script{name: "a node now and then", drip: time.Millisecond,
			list: func(a *actor, l list) (frames []byte) {
				for n := range l.count {
					frames = append(frames, a.nodes(list{from: l.from + n, count: 1, full: l.full})...)
				}
				return frames
			}}},
		{script: script{name: "no answer to LIST and WANT",
			list: func(*actor, list) []byte { return nil }}},
		{script: script{name: "PEERS that do not answer", open: func(a *actor, o open) []byte {
			frames := a.opens(o)
			for range newsBurst / 2 {
				infos := make([]peer.AddrInfo, maxPeers)
				for i := range infos {
					infos[i].ID, _ = test.RandPeerID()
					infos[i].Addrs = []ma.Multiaddr{ma.StringCast("/ip4/10.77.0.250/tcp/1")}
				}
				frames = append(frames, appendPeers(nil, len(infos), infos)...)
			}
			return frames
		}}},
		{script: script{name: "cut off after each byte", cut: cutEach(1)}},
		{script: script{name: "cut off after each KiB", cut: cutEach(1 << 10)}},
		{script: script{name: "a million WANT", open: absent}, times: 2 * maxQueued, streams: 1,
			asks: func(a *actor) []byte { return appendSpanFrame(nil, frameWant, []span{{0, a.order.leaves.len()}}) }},
		{script: script{name: "streams that are not read", open: absent}, times: maxLists, streams: servePerPeer,
			asks: func(*actor) []byte { return appendList(nil, list{full: true}) }},
		{script: script{name: "the same WANT", open: absent}, times: 1000, streams: 1, reads: true,
			asks: func(a *actor) []byte { return appendSpanFrame(nil, frameWant, first(a)) }},
		{script: script{name: "the same WANT, and CANCEL", open: absent}, times: 1, streams: 1, reads: true,
			asks: func(a *actor) []byte {
				want := appendSpanFrame(nil, frameWant, first(a))
				return append(bytes.Repeat(appendSpanFrame(want, frameCancel, first(a)), 1000), want...)
			}},
		{script: script{name: "the same LIST", open: absent}, times: maxLists, streams: 1, reads: true,
			asks: func(*actor) []byte { return appendList(nil, list{full: true}) }},
		{script: script{name: "the same OPEN", open: absent}, times: maxOpens - 1, streams: 1, reads: true,
			asks: func(a *actor) []byte { return appendOpen(nil, open{root: a.order.root}) }},
		{script: script{name: "the same GET", open: absent}, times: maxQueued / maxGets, streams: 1, reads: true,
			asks: func(a *actor) []byte { return appendGet(nil, slices.Repeat([]cid.Cid{a.order.root}, maxGets)) }},
	}
}

// cutEach counts streams: the first is cut off at once, and each after so many bytes more
// than the one before, up to 1,000 times as many.
func cutEach(bytes int64) func() int64 {
	var streams atomic.Int64
	return func() int64 { return (streams.Add(1) - 1) % 1000 * bytes }
}

// ask opens the DAG at p and asks as k says, over one stream after the other, until p cannot
// be reached any more.
func (a *actor) ask(ctx context.Context, p peer.AddrInfo, k play) {
	const pause = time.Second // or it would be a flood, which no protocol can keep off a line
	for a.Connect(ctx, p) == nil {
		if st, err := a.NewStream(ctx, p.ID, Protocol); err == nil {
			a.askOver(st, k)
			st.Reset()
		}
		time.Sleep(pause)
	}
}

// askOver asks over st, and returns when all is answered, if that is read, or st has ended.
func (a *actor) askOver(st network.Stream, k play) {
	frames := appendOpen(appendFrame(nil, frameHello), open{root: a.order.root})
	_, err := st.Write(append(frames, bytes.Repeat(k.asks(a), k.times)...))
	for !k.reads && err == nil {
		time.Sleep(100 * time.Millisecond)
		_, err = st.Write(nil)
	}
	r := bufio.NewReader(st)
	for missing := 1 + k.times; missing > 0 && err == nil; {
		var t frameType
		if t, _, err = readFrame(r, maxAnswer); t != frameHello && t != frameHave && t != framePeers {
			missing--
		}
	}
}
