package node

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/multiformats/go-multihash"
)

// TestKeySet checks that a set has what was added and nothing else, and takes less than
// half of what the keys themselves would.
func TestKeySet(t *testing.T) {
	number := func(i int) multihash.Multihash {
		return append(multihash.Multihash{multihash.SHA2_256, 32}, binary.BigEndian.AppendUint64(make([]byte, 24), uint64(i))...)
	}
	const n = 300_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newKeySet()
	for i := range n {
		if !s.add(number(i)) {
			t.Fatalf("number %d was in the set", i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if bytes := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; bytes > 22 {
		t.Errorf("%d bytes for each key", bytes)
	}
	for i := range n {
		if s.add(number(i)) || !s.has(number(i)) {
			t.Fatalf("number %d is not in the set", i)
		}
		if s.has(number(n + i)) {
			t.Fatalf("number %d is in the set", n+i)
		}
	}
}
