package exchange

import (
	"os"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/dag"
)

// BenchmarkFetch moves a site from one node to another over loopback: the folder that
// POLLUX_SITE names, or 2,000 files of random bytes.
func BenchmarkFetch(b *testing.B) {
	seed := newNode(b)
	t := newTree(1, 40, 50)
	root, bytes := t.root(), t.bytes
	if dir := os.Getenv("POLLUX_SITE"); dir != "" {
		r, err := dag.Import(b.Context(), seed.store, dir, dag.ImportOptions{})
		if err != nil {
			b.Fatal(err)
		}
		root, bytes = r.Root, int64(r.Bytes)
	} else if err := seed.store.Put(t.blocks...); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(bytes)
	received := int64(0)
	for b.Loop() {
		b.StopTimer()
		mirror := newNode(b)
		b.StartTimer()
		res, err := mirror.fetch(b.Context(), Request{Root: root}, seed.info())
		if err != nil {
			b.Fatal(err)
		}
		received += res.Received
	}
	b.ReportMetric(float64(received)/float64(b.N)/float64(bytes), "received/byte")
}

// BenchmarkUpdate moves the next version of a site, over loopback: the folder that
// POLLUX_NEXT names, where the mirror has the one that POLLUX_SITE names, or pages of
// which each changed a line.
func BenchmarkUpdate(b *testing.B) {
	seed := newNode(b)
	v1, v2 := pages(1, 400, "May 12"), pages(1, 400, "October 7")
	roots := [2]cid.Cid{v1[0].CID(), v2[0].CID()}
	bytes := size(v2)
	dirs := [2]string{os.Getenv("POLLUX_SITE"), os.Getenv("POLLUX_NEXT")}
	load := func(n *node, versions int) {
		for i := range versions {
			if dirs[1] == "" {
				if err := n.store.Put([][]blockstore.Block{v1, v2}[i]...); err != nil {
					b.Fatal(err)
				}
				continue
			}
			r, err := dag.Import(b.Context(), n.store, dirs[i], dag.ImportOptions{})
			if err != nil {
				b.Fatal(err)
			}
			roots[i], bytes = r.Root, r.Bytes
		}
	}
	load(seed, 2)
	b.SetBytes(bytes)
	received := int64(0)
	for b.Loop() {
		b.StopTimer()
		mirror := newNode(b)
		load(mirror, 1)
		b.StartTimer()
		res, err := mirror.fetch(b.Context(), Request{Root: roots[1], Bases: roots[:1]}, seed.info())
		if err != nil {
			b.Fatal(err)
		}
		received += res.Received
	}
	b.ReportMetric(float64(received)/float64(b.N)/float64(bytes), "received/byte")
}

// BenchmarkCancel calls off leaves with as much in the queue as may be: others, which costs a
// stranger seven bytes, or one after the other of those that are next.
func BenchmarkCancel(b *testing.B) {
	for name, first := range map[string]func(i int) int{
		"nothing": func(int) int { return maxLeaves - 1 },
		"next":    func(i int) int { return i % (maxLeaves - 4*maxQueued) },
	} {
		b.Run(name, func(b *testing.B) {
			a := asked{wants: append([]span{{0, maxLeaves - 4*maxQueued}}, every(maxQueued-1, 2)...)}
			for i, s := range a.wants[1:] {
				a.wants[i+1].first = maxLeaves - 4*maxQueued + s.first
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				cancel := appendSpanFrame(nil, frameCancel, []span{{first(i), 1}})
				if err := a.add(frameCancel, cancel[2:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
