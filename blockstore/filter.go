package blockstore

import (
	"encoding/binary"
	"math/bits"
)

// filterBits is how many bits a filter has for each key. With twelve, one absent key in
// 150 is taken for a member.
const filterBits = 12

// filter is a set of keys that may also seem to have others: a Bloom filter in blocks of
// 32 bytes, so that a look-up touches one line of the CPU's cache. A key sets one bit in
// each of the eight words of its block. Keys are hashes, so their bytes serve as they
// are. A stranger who picks keys so that they fall together makes look-ups of just those
// slower, and no others.
type filter [][8]uint32

func newFilter(keys int) filter { return make(filter, keys*filterBits/256+1) }

// place returns the block of k, and the numbers of its bits, five bits each. The first
// bytes of the key are left out: in what is sorted by them they tell little.
func (f filter) place(k *key) (*[8]uint32, uint64) {
	block, _ := bits.Mul64(binary.LittleEndian.Uint64(k[8:]), uint64(len(f)))
	return &f[block], binary.LittleEndian.Uint64(k[16:])
}

func (f filter) add(k *key) {
	block, numbers := f.place(k)
	for i := range block {
		block[i] |= 1 << (numbers >> (5 * i) & 31)
	}
}

// mayHave is false if k was not added.
func (f filter) mayHave(k *key) bool {
	block, numbers := f.place(k)
	for i := range block {
		if block[i]&(1<<(numbers>>(5*i)&31)) == 0 {
			return false
		}
	}
	return true
}
