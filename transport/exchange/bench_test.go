package exchange

import (
	"os"
	"testing"

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
