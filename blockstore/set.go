package blockstore

import (
	"crypto/sha512"
	"hash/maphash"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// CIDSet is a set of CIDs. CIDs that differ in version or codec alone are different
// members. It takes some 45 bytes for each, in a few large pieces that the garbage
// collector need not look into: a map of CIDs takes three times as much, and more while
// it grows. The zero value is empty. It is for one goroutine.
type CIDSet struct {
	leaves keySet // by digest: what most members of a set are, and all of them need no hashing
	others keySet // by the SHA-512/256 of the CID
}

// Add adds c and says whether it was not in the set.
func (s *CIDSet) Add(c cid.Cid) bool {
	set, k := s.place(c)
	return set.add(k)
}

// Has says whether c is in the set.
func (s *CIDSet) Has(c cid.Cid) bool {
	set, k := s.place(c)
	return set.has(k)
}

func (s *CIDSet) place(c cid.Cid) (*keySet, key) {
	if mh := c.Hash(); c.Version() == 1 && c.Type() == cid.Raw && isSHA256(mh) {
		return &s.leaves, key(mh[2:])
	}
	return &s.others, sha512.Sum512_256([]byte(c.KeyString()))
}

func isSHA256(mh multihash.Multihash) bool {
	return len(mh) == 34 && mh[0] == multihash.SHA2_256 && mh[1] == 32
}

// keyChunk is how many keys of a keySet lie in one piece, 32 KiB.
const keyChunk = 1 << 10

// keySet is a set of keys that remembers in which order they came. The zero value is
// empty.
//
// Keys lie in chunks, which stay where they are while the set grows. A table with open
// addressing has the number of each, plus one; it alone is made anew, twice as large,
// when three quarters of it are in use. Slots are picked by a hash with a random seed:
// a stranger may have chosen the keys.
type keySet struct {
	seed   maphash.Seed
	chunks []*[keyChunk]key
	n      int
	table  []uint32 // its length is a power of two; 0 is free
}

func (s *keySet) len() int { return s.n }

// at returns the key that came i-th, from 0.
func (s *keySet) at(i int) *key { return &s.chunks[i/keyChunk][i%keyChunk] }

func (s *keySet) has(k key) bool {
	return s.n > 0 && s.table[s.slot(&k)] != 0
}

// add adds k and says whether it was not in the set.
func (s *keySet) add(k key) bool {
	if s.n >= len(s.table)/4*3 {
		s.grow()
	}
	i := s.slot(&k)
	if s.table[i] != 0 {
		return false
	}
	if s.n%keyChunk == 0 {
		s.chunks = append(s.chunks, new([keyChunk]key))
	}
	*s.at(s.n) = k
	s.n++
	s.table[i] = uint32(s.n)
	return true
}

// slot returns where in the table k is, or is to be.
func (s *keySet) slot(k *key) int {
	mask := len(s.table) - 1
	i := int(maphash.Bytes(s.seed, k[:])) & mask
	for s.table[i] != 0 && *s.at(int(s.table[i]) - 1) != *k {
		i = (i + 1) & mask
	}
	return i
}

func (s *keySet) grow() {
	if s.table == nil {
		s.seed = maphash.MakeSeed()
	}
	s.table = make([]uint32, max(2*len(s.table), 16))
	mask := len(s.table) - 1
	for n := range s.n {
		i := int(maphash.Bytes(s.seed, s.at(n)[:])) & mask
		for s.table[i] != 0 {
			i = (i + 1) & mask
		}
		s.table[i] = uint32(n + 1)
	}
}
