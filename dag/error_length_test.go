package dag

import (
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// An identity CID may be as long as the block that it is in. An error names it, and
// does not print 3 MB of it.
func TestErrorOfLongCIDIsShort(t *testing.T) {
	h, err := multihash.Encode(make([]byte, 2<<20-100), multihash.IDENTITY)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemStore()
	root := m.putDir(t, "", Link{"a", cid.NewCidV1(cid.DagProtobuf, h), 1})
	_, err = Resolve(t.Context(), m, root.CID, "a")
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	if _, err = walkAll(t, m, root.CID); err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}
