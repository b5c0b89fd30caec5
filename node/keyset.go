package node

import (
	"hash/maphash"

	"github.com/multiformats/go-multihash"
)

// keySet is a set of keys that remembers 64 bits of each, 11 to 22 bytes with the room
// to grow: there may be millions, for as long as it takes to announce them. Of a million
// keys, two that it takes for one are there once in 30 million sets. Which ones that
// would be nobody can arrange, since the hash has a random seed.
type keySet struct {
	seed  maphash.Seed
	n     int
	table []uint64 // hashes, with open addressing; its length is a power of two, and 0 is free
}

func newKeySet() *keySet {
	return &keySet{seed: maphash.MakeSeed(), table: make([]uint64, 16)}
}

// add adds k and says whether it was not in the set.
func (s *keySet) add(k multihash.Multihash) bool {
	if s.n >= len(s.table)/4*3 {
		old := s.table
		s.table = make([]uint64, 2*len(old))
		for _, h := range old {
			if h != 0 {
				s.table[s.slot(h)] = h
			}
		}
	}
	h := s.hash(k)
	i := s.slot(h)
	if s.table[i] == h {
		return false
	}
	s.table[i] = h
	s.n++
	return true
}

func (s *keySet) has(k multihash.Multihash) bool {
	h := s.hash(k)
	return s.table[s.slot(h)] == h
}

func (s *keySet) hash(k multihash.Multihash) uint64 { return max(maphash.Bytes(s.seed, k), 1) }

// slot returns where in the table h is, or is to be.
func (s *keySet) slot(h uint64) int {
	mask := len(s.table) - 1
	i := int(h) & mask
	for s.table[i] != 0 && s.table[i] != h {
		i = (i + 1) & mask
	}
	return i
}
