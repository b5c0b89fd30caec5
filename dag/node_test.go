package dag

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/encoding/protowire"

	"pollux/blockstore"
)

func TestNodeEncodeLikeBoxo(t *testing.T) {
	m := newMemStore()
	nodes := []Node{
		{},
		{Data: []byte{}},
		{Data: []byte("data")},
		{Links: []Link{m.putFile(t, "", "a"), m.putFile(t, "", "b"), m.putFile(t, "a\xff", "")}},
		{Links: []Link{{"a", m.putFile(t, "", "a").CID, 1<<63 - 1}}, Data: []byte("data")},
	}
	for _, n := range nodes {
		want := merkledag.NodeWithData(n.Data)
		for _, l := range n.Links {
			if err := want.AddRawLink(l.Name, &format.Link{Size: l.Size, Cid: l.CID}); err != nil {
				t.Fatal(err)
			}
		}
		encoded, err := want.EncodeProtobuf(false)
		if err != nil {
			t.Fatal(err)
		}
		got := n.Encode()
		if !bytes.Equal(got, encoded) {
			t.Errorf("%+v is %x, boxo has %x", n, got, encoded)
		}
		if len(got) != n.encodedSize() {
			t.Errorf("size is %d, predicted %d", len(got), n.encodedSize())
		}
		if back, err := DecodeNode(got); err != nil || !reflect.DeepEqual(back, n) {
			t.Errorf("decoded %+v, %v from %+v", back, err, n)
		}
	}
}

// Pieces of protobuf, well formed or not.
func pbBytes(num protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), body)
}

func pbVarint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func TestDecodeNode(t *testing.T) {
	c := blockstore.Sum(cid.Raw, []byte("x")).CID()
	hash := pbBytes(fieldHash, c.Bytes())
	name, size := pbBytes(fieldName, []byte("n")), pbVarint(fieldTsize, 7)
	link := func(parts ...[]byte) []byte { return pbBytes(fieldLinks, slices.Concat(parts...)) }
	data := pbBytes(fieldData, []byte("d"))
	tests := []struct {
		name string
		in   []byte
		want *Node // nil if refused
	}{
		{"empty", nil, &Node{}},
		{"links, data", slices.Concat(link(hash, name, size), data), &Node{[]Link{{"n", c, 7}}, []byte("d")}},
		{"data, links", slices.Concat(data, link(hash, name, size)), &Node{[]Link{{"n", c, 7}}, []byte("d")}},
		{"hash only", link(hash), &Node{[]Link{{"", c, 0}}, nil}},
		{"no name", link(hash, size), &Node{[]Link{{"", c, 7}}, nil}},
		{"Tsize 2^64-1", link(hash, pbVarint(fieldTsize, 1<<64-1)), &Node{[]Link{{"", c, 1<<64 - 1}}, nil}},
		{"links, data, links", slices.Concat(link(hash), data, link(hash)), nil},
		{"data twice", slices.Concat(data, data), nil},
		{"empty data twice", slices.Concat(pbBytes(fieldData, nil), pbBytes(fieldData, nil)), nil},
		{"unknown field", pbBytes(3, nil), nil},
		{"field 0", []byte{0x02, 0x00}, nil},
		{"data as varint", pbVarint(fieldData, 1), nil},
		{"group", []byte{0x0b, 0x0c}, nil},
		{"trailing byte", append(slices.Clone(data), 0x0a), nil},
		{"length beyond the end", []byte{0x0a, 0x05, 'x'}, nil},
		{"length 2^64-1", append([]byte{0x0a}, protowire.AppendVarint(nil, 1<<64-1)...), nil},
		{"length too long a varint", []byte{0x0a, 0x81, 0x00, 'x'}, nil},
		{"tag too long a varint", []byte{0x8a, 0x00, 0x01, 'x'}, nil},
		{"varint of 11 bytes", bytes.Repeat([]byte{0xff}, 11), nil},
		{"link without hash", link(name, size), nil},
		{"empty link", link(), nil},
		{"name before hash", link(name, hash), nil},
		{"Tsize before name", link(hash, size, name), nil},
		{"hash twice", link(hash, hash), nil},
		{"name twice", link(hash, name, name), nil},
		{"Tsize twice", link(hash, size, size), nil},
		{"unknown field in link", link(hash, pbVarint(4, 1)), nil},
		{"Tsize as bytes", link(hash, pbBytes(fieldTsize, []byte{1})), nil},
		{"name as varint", link(hash, pbVarint(fieldName, 1)), nil},
		{"no CID", link(pbBytes(fieldHash, []byte("nonsense"))), nil},
		{"empty CID", link(pbBytes(fieldHash, nil)), nil},
		{"bytes after CID", link(pbBytes(fieldHash, append(c.Bytes(), 0))), nil},
		{"cut CID", link(pbBytes(fieldHash, c.Bytes()[:20])), nil},
		{"over the size of a block", pbBytes(fieldData, make([]byte, blockstore.MaxBlockSize)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeNode(tt.in)
			if tt.want == nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, *tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, *tt.want)
			}
		})
	}
}

func TestLinks(t *testing.T) {
	m := newMemStore()
	file := m.putFile(t, "f", "x")
	dir := m.putDir(t, "", file)
	if links, err := Links(m.blocks[file.CID]); links != nil || err != nil {
		t.Errorf("raw: %v, %v", links, err)
	}
	if links, err := Links(m.blocks[dir.CID]); err != nil || !slices.Equal(links, []Link{file}) {
		t.Errorf("dag-pb: %v, %v", links, err)
	}
	if _, err := Links(blockstore.Sum(cid.DagCBOR, nil)); !errors.Is(err, ErrCodec) {
		t.Errorf("dag-cbor: %v", err)
	}
	if _, err := Links(blockstore.Sum(cid.DagProtobuf, []byte("x"))); !errors.Is(err, ErrMalformed) {
		t.Errorf("broken dag-pb: %v", err)
	}
}

// FuzzDecodeNode checks that DecodeNode accepts nothing that Kubo does not, that
// both then see the same, and that what it decodes survives encoding. What Kubo
// accepts and encodes anew, DecodeNode accepts too.
func FuzzDecodeNode(f *testing.F) {
	c := blockstore.Sum(cid.Raw, []byte("x")).CID()
	f.Add([]byte{})
	f.Add(Node{Links: []Link{{"name", c, 7}, {"", c, 0}}, Data: []byte("d")}.Encode())
	f.Add(slices.Concat(pbBytes(fieldData, []byte("d")), pbBytes(fieldLinks, pbBytes(fieldHash, c.Bytes()))))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := DecodeNode(in)
		want, boxoErr := merkledag.DecodeProtobuf(in)
		if err != nil {
			if boxoErr == nil {
				again, err := want.EncodeProtobuf(true)
				if err != nil {
					return // a CID in an odd form, or a Tsize that is negative to boxo
				}
				if _, err := DecodeNode(again); err != nil {
					t.Fatalf("refused boxo's own encoding: %v", err)
				}
			}
			return
		}
		if boxoErr != nil {
			t.Fatalf("accepted what boxo refuses: %v", boxoErr)
		}
		if !bytes.Equal(got.Data, want.Data()) || len(got.Links) != len(want.Links()) {
			t.Fatalf("got %+v, boxo has %+v", got, want)
		}
		for i, l := range want.Links() {
			if got.Links[i] != (Link{l.Name, l.Cid, l.Size}) {
				t.Fatalf("link %d is %+v, boxo has %+v", i, got.Links[i], l)
			}
		}
		back, err := DecodeNode(got.Encode())
		if err != nil || !reflect.DeepEqual(back, got) {
			t.Fatalf("%+v became %+v, %v", got, back, err)
		}
	})
}

// identityCID returns a CID of dag-pb codec that carries data itself.
func identityCID(t testing.TB, codec uint64, data []byte) cid.Cid {
	t.Helper()
	h, err := multihash.Sum(data, multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(codec, h)
}
