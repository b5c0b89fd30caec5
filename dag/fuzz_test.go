package dag

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/ipfs/go-cid"
)

// FuzzParseFileCache looks up files in arbitrary bytes that are taken for a cache: they
// encode to the same, and what is found is a file that a store could hold.
func FuzzParseFileCache(f *testing.F) {
	record := func(s stamp, codec byte, size uint64) []byte {
		b := append(s.append(nil, layout(1<<20)), codec)
		b = append(b, make([]byte, 32)...)
		return binary.BigEndian.AppendUint64(b, size)
	}
	f.Add([]byte{}, uint64(0), int64(0))
	f.Add(record(stamp{1, 2, 3, 4, 5}, cid.Raw, 3), uint64(2), int64(3))
	f.Add(append(record(stamp{}, cid.DagProtobuf, 0), record(stamp{1, 2, 3, 4, 5}, cid.Raw, 3)...), uint64(2), int64(3))
	f.Fuzz(func(t *testing.T, in []byte, ino uint64, size int64) {
		c, err := ParseFileCache(in)
		if err != nil {
			if len(in)%CachedFileSize == 0 {
				t.Fatalf("refused %d records: %v", len(in)/CachedFileSize, err)
			}
			return
		}
		if !bytes.Equal(c.Encode(), in) {
			t.Fatalf("%x became %x", in, c.Encode())
		}
		type file struct {
			stamp
			layout
		}
		files := []file{{}, {stamp{1, ino, size, 4, 5}, 1 << 20}}
		for b := in; len(b) > 0; b = b[CachedFileSize:] {
			v := func(i int) uint64 { return binary.BigEndian.Uint64(b[4+8*i:]) }
			files = append(files, file{stamp{v(0), v(1), int64(v(2)), int64(v(3)), int64(v(4))}, layout(binary.BigEndian.Uint32(b))})
		}
		for _, s := range files {
			l, ok := c.find(s.stamp, s.layout)
			if ok && l.CID.Type() != cid.Raw && l.CID.Type() != cid.DagProtobuf {
				t.Fatalf("found %s", l.CID)
			}
			if ok && !bytes.Contains(in, s.append(nil, s.layout)) {
				t.Fatalf("found %+v, which is not there", s)
			}
		}
	})
}
