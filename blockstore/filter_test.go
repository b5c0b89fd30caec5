package blockstore

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// TestFilter checks that a filter has what was added, and of the rest no more than its
// size is for. Keys start alike, as those of one part of a sorted index do.
func TestFilter(t *testing.T) {
	number := func(i int) *key {
		k := key(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))))
		k[0] = 7
		return &k
	}
	for _, n := range []int{0, 1, 100, 1 << 17} {
		f := newFilter(n)
		for i := range n {
			f.add(number(i))
		}
		for i := range n {
			if !f.mayHave(number(i)) {
				t.Fatalf("of %d keys, number %d is not there", n, i)
			}
		}
		const absent = 100_000
		wrong := 0
		for i := range absent {
			if f.mayHave(number(n + i)) {
				wrong++
			}
		}
		if wrong > absent/100 {
			t.Errorf("of %d keys, %d of %d absent ones seem to be there", n, wrong, absent)
		}
	}
}
