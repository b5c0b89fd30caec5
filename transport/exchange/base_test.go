package exchange

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/transport/delta"
)

// siteVersion is a site of which every page changes with each version, in which pages
// come and go, and which holds a large file that changes in the middle.
func siteVersion(version int) tree {
	var t tree
	put := func(b blockstore.Block, links []dag.Link) dag.Link {
		t.blocks = append(t.blocks, b)
		size := uint64(len(b.Data()))
		for _, l := range links {
			size += l.Size
		}
		t.bytes += int64(len(b.Data()))
		return dag.Link{CID: b.CID(), Size: size}
	}
	leaf := func(name string, data []byte) dag.Link {
		l := put(blockstore.Sum(cid.Raw, data), nil)
		l.Name = name
		return l
	}
	node := func(name string, links []dag.Link) dag.Link {
		l := put(blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode()), links)
		l.Name = name
		return l
	}
	random := func(seed, n int) []byte {
		data := make([]byte, n)
		r := rand.New(rand.NewPCG(uint64(seed), 5))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		return data
	}
	var top []dag.Link
	for i := range 20 {
		var pages []dag.Link
		for j := range 30 {
			if (i+j+version)%29 == 0 {
				continue
			}
			page := random(1000*i+j, 4000)
			page = fmt.Appendf(page, "<footer>version %d of the pages</footer>", version)
			pages = append(pages, leaf(fmt.Sprintf("page%02d.html", j), append(page, random(-1000*i-j, 2000)...)))
		}
		top = append(top, node(fmt.Sprintf("chapter%02d", i), pages))
	}
	large := random(7, 3<<20)
	copy(large[1<<20+99:], fmt.Sprintf("version %d", version))
	var chunks []dag.Link
	for c := range 3 {
		chunks = append(chunks, leaf("", large[c<<20:(c+1)<<20]))
	}
	top = append(top, node("large", chunks))
	root := node("", top)
	n := len(t.blocks) - 1
	t.blocks[0], t.blocks[n] = t.blocks[n], t.blocks[0]
	if t.root() != root.CID {
		panic("the root is first")
	}
	return t
}

// TestDelta fetches the next version of a site: from one who holds both, from one who
// holds that alone, with a base of which a part is gone, and without.
func TestDelta(t *testing.T) {
	old, next := siteVersion(1), siteVersion(2)
	unlike := newTree(1, 3, 3)
	for name, tt := range map[string]struct {
		provider []blockstore.Block
		held     []blockstore.Block
		most     float64 // of the site's bytes that come over the network
		least    float64
	}{
		"both hold the old one":   {append(bytesOf(old), next.blocks...), old.blocks, 0.05, 0},
		"the provider lacks it":   {next.blocks, old.blocks, 0.75, 0.6}, // two of three chunks are as they were
		"the fetcher lost a part": {append(bytesOf(old), next.blocks...), old.blocks[:len(old.blocks)/2], 0.9, 0.2},
		"the fetcher lacks it":    {append(bytesOf(old), next.blocks...), nil, 1.1, 0.9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := provider(t, tt.provider...)
			c, store := newClient(t)
			if err := store.Put(append(bytesOf(unlike), tt.held...)...); err != nil {
				t.Fatal(err)
			}
			res, err := c.Fetch(context.Background(), Request{Root: next.root(), Bases: []cid.Cid{unlike.root(), old.root()}}, candidates(h))
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, store, next)
			share := float64(res.Received) / float64(next.bytes)
			t.Logf("%d bytes of %d: %.4f", res.Received, next.bytes, share)
			if share > tt.most || share < tt.least {
				t.Errorf("received %.3f of the site, want %.2f to %.2f", share, tt.least, tt.most)
			}
		})
	}
}

// bytesOf returns a copy of the tree's blocks that can be appended to.
func bytesOf(t tree) []blockstore.Block { return append([]blockstore.Block(nil), t.blocks...) }

func deltaOf(base, target []byte) []byte { return new(delta.Encoder).Append(nil, base, target) }

func encoderOf(t *testing.T) *zstd.Encoder {
	enc, err := newEncoder()
	if err != nil {
		t.Error(err)
	}
	return enc
}

// TestHostileDelta has a peer answer with wrong deltas beside an honest one.
func TestHostileDelta(t *testing.T) {
	old, next := siteVersion(1), siteVersion(2)
	blocks := make(map[cid.Cid]blockstore.Block)
	for _, b := range append(bytesOf(old), next.blocks...) {
		blocks[b.CID()] = b
	}
	for name, lie := range map[string]func(target, base []byte) []byte{
		"no delta at all": func(_, _ []byte) []byte {
			return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		},
		"an empty delta":         func(_, _ []byte) []byte { return nil },
		"of another base":        func(target, base []byte) []byte { return deltaOf(append([]byte("x"), base...), target) },
		"of another block":       func(target, base []byte) []byte { return deltaOf(base, append([]byte("x"), target...)) },
		"cut short":              func(target, base []byte) []byte { d := deltaOf(base, target); return d[:len(d)-1] },
		"too large":              func(_, base []byte) []byte { return deltaOf(base, bytes.Repeat(base, 3<<20/max(len(base), 1)+1)) },
		"with bytes after it":    func(target, base []byte) []byte { return append(deltaOf(base, target), 0) },
		"of the block as a base": func(target, _ []byte) []byte { return deltaOf(target, target) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lied := make(chan struct{})
			liar := evil(t, func(st network.Stream) {
				st.Write(appendFrame(nil, frameHello))
				readAsks(st, func(asks []ask) {
					for _, a := range asks {
						target := blocks[a.cid].Data()
						if !a.base.Defined() {
							st.Write(appendData(nil, encoderOf(t), []piece{{bytes: target}}))
							continue
						}
						st.Write(appendData(nil, encoderOf(t), []piece{{lie(target, blocks[a.base].Data()), true}}))
						select {
						case <-lied:
						default:
							close(lied)
						}
					}
				})
			})
			c, store := newClient(t)
			if err := store.Put(old.blocks...); err != nil {
				t.Fatal(err)
			}
			from := make(chan Candidate, 2)
			from <- Candidate{peer.AddrInfo{ID: liar.ID(), Addrs: liar.Addrs()}, true}
			go func() {
				<-lied
				var honest host.Host = provider(t, append(bytesOf(old), next.blocks...)...)
				from <- Candidate{peer.AddrInfo{ID: honest.ID(), Addrs: honest.Addrs()}, true}
			}()
			if _, err := c.Fetch(context.Background(), Request{Root: next.root(), Bases: []cid.Cid{old.root()}}, from); err != nil {
				t.Fatal(err)
			}
			wantTree(t, store, next)
			if !c.bans.has(liar.ID()) {
				t.Error("the liar is not banned")
			}
		})
	}
}
