package blockstore

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/klauspost/compress/zstd"
)

func TestPacked(t *testing.T) {
	text := Sum(cid.Raw, bytes.Repeat([]byte("Castor and Pollux\n"), 100))
	short := Sum(cid.Raw, []byte("Castor"))
	from := openDir(t, t.TempDir())
	if err := from.Put(text, short); err != nil {
		t.Fatal(err)
	}
	to := openDir(t, t.TempDir())
	for _, b := range []Block{text, short} {
		data, packed, size, err := from.Packed(context.Background(), b.CID())
		if err != nil {
			t.Fatal(err)
		}
		if packed != (b.CID() == text.CID()) || size != len(b.Data()) {
			t.Errorf("%d bytes of %d, packed: %v", len(data), size, packed)
		}
		got, err := NewBlock(b.CID(), data)
		if packed {
			got, err = Unpack(b.CID(), data)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := to.Put(got); err != nil {
			t.Fatal(err)
		}
		back, err := to.Get(context.Background(), b.CID())
		if err != nil || !bytes.Equal(back.Data(), b.Data()) {
			t.Fatal("the block changed on its way", err)
		}
		again, _, _, err := to.Packed(context.Background(), b.CID())
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("it is stored differently: %v", err)
		}
	}
	if _, _, _, err := from.Packed(context.Background(), Sum(cid.Raw, nil).CID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a block that is not held: %v", err)
	}
}

func TestUnpackHostile(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := Sum(cid.Raw, []byte("Castor"))
	for name, packed := range map[string][]byte{
		"nothing":        nil,
		"not zstd":       []byte("Castor"),
		"another block":  enc.EncodeAll([]byte("Pollux"), nil),
		"a bomb":         enc.EncodeAll(make([]byte, 64<<20), nil),
		"cut short":      enc.EncodeAll(b.Data(), nil)[:9],
		"over the limit": make([]byte, MaxBlockSize+1),
	} {
		if _, err := Unpack(b.CID(), packed); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
