package dag

import (
	"bytes"
	"testing"

	"github.com/ipfs/go-cid"
)

// FuzzReadFileCache looks up a file in arbitrary bytes that are taken for a cache: they
// are written as they were read, and what is found is a file that a store could hold.
func FuzzReadFileCache(f *testing.F) {
	const how = layout(1 << 20)
	record := func(s stamp, codec byte) []byte {
		key := s.hash(how)
		return append(append(key[:], codec), make([]byte, 32+8)...)
	}
	f.Add([]byte{}, uint64(0), int64(0))
	f.Add(record(stamp{1, 2, 3, 4, 5}, cid.Raw), uint64(2), int64(3))
	f.Add(append(make([]byte, CachedFileSize), record(stamp{1, 2, 3, 4, 5}, cid.DagProtobuf)...), uint64(2), int64(3))
	f.Add(append(record(stamp{1, 2, 3, 4, 5}, 'x'), make([]byte, CachedFileSize)...), uint64(2), int64(3)) // not sorted
	f.Fuzz(func(t *testing.T, in []byte, ino uint64, size int64) {
		c, err := ReadFileCache(bytes.NewReader(in), int64(len(in)))
		if err != nil {
			return
		}
		if out := encode(t, c); !bytes.Equal(out, in) {
			t.Fatalf("%x became %x", in, out)
		}
		s := stamp{1, ino, size, 4, 5}
		l, _, ok := c.find(s, how)
		if ok && l.CID.Type() != cid.Raw && l.CID.Type() != cid.DagProtobuf {
			t.Fatalf("found %s", l.CID)
		}
		if key := s.hash(how); ok && !bytes.Contains(in, key[:]) {
			t.Fatalf("found %+v, which is not there", s)
		}
	})
}
