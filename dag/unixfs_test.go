package dag

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	boxounixfs "github.com/ipfs/boxo/ipld/unixfs"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestUnixFSEncodeLikeBoxo(t *testing.T) {
	file := boxounixfs.NewFSNode(boxounixfs.TFile)
	file.AddBlockSize(1 << 20)
	file.AddBlockSize(5)
	withSizes, err := file.GetBytes()
	if err != nil {
		t.Fatal(err)
	}
	symlink, err := boxounixfs.SymlinkData("../target")
	if err != nil {
		t.Fatal(err)
	}
	shard, err := boxounixfs.HAMTShardData([]byte{1, 0, 9}, 256, hamtHash)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Date(1960, 1, 2, 3, 4, 5, 6, time.UTC)
	tests := []struct {
		name  string
		u     unixfs
		links int
		want  []byte
	}{
		{"directory", unixfs{Type: typeDirectory}, 0, boxounixfs.FolderPBData()},
		{"leaf", unixfs{Type: typeRaw, Data: []byte("abc"), FileSize: 3}, 0, boxounixfs.WrapData([]byte("abc"))},
		{"empty file", unixfs{Type: typeFile}, 0, boxounixfs.FilePBData(nil, 0)},
		{"file", unixfs{Type: typeFile, FileSize: 1<<20 + 5, BlockSizes: []uint64{1 << 20, 5}}, 2, withSizes},
		{"symlink", unixfs{Type: typeSymlink, Data: []byte("../target")}, 0, symlink},
		{"HAMT", unixfs{Type: typeHAMTShard, Data: []byte{1, 0, 9}, HashType: hamtHash, Fanout: 256}, 3, shard},
		{"mode and time", unixfs{Type: typeDirectory, Mode: 0o755, ModTime: old}, 0, boxounixfs.FolderPBDataWithStat(os.FileMode(0o755), old)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.u.Encode(); !bytes.Equal(got, tt.want) {
				t.Errorf("got %x, boxo has %x", got, tt.want)
			}
			got, err := decodeUnixFS(Node{Data: tt.want, Links: make([]Link, tt.links)})
			if err != nil || !got.ModTime.Equal(tt.u.ModTime) {
				t.Fatalf("got %+v, %v", got, err)
			}
			got.ModTime = tt.u.ModTime
			if !reflect.DeepEqual(got, tt.u) {
				t.Errorf("got %+v, want %+v", got, tt.u)
			}
		})
	}
}

func TestDecodeUnixFS(t *testing.T) {
	file, dir := pbVarint(fieldType, uint64(typeFile)), pbVarint(fieldType, uint64(typeDirectory))
	size := func(v uint64) []byte { return pbVarint(fieldBlockSizes, v) }
	tests := []struct {
		name  string
		in    []byte
		links int
		ok    bool
	}{
		{"nothing", nil, 0, false},
		{"no type", pbBytes(fieldContent, []byte("x")), 0, false},
		{"type twice", slices.Concat(file, file), 0, false},
		{"unknown type", pbVarint(fieldType, 6), 0, false},
		{"type 2^64-1", pbVarint(fieldType, 1<<64-1), 0, false},
		{"type as bytes", pbBytes(fieldType, nil), 0, false},
		{"fields in another order", slices.Concat(size(3), pbVarint(fieldFileSize, 3), file), 1, true},
		{"unknown field", slices.Concat(dir, pbBytes(9, []byte("x")), pbVarint(100, 1)), 0, true},
		{"unknown field, cut", slices.Concat(dir, []byte{9<<3 | 2, 5, 'x'}), 0, false},
		{"packed block sizes", slices.Concat(file, pbBytes(fieldBlockSizes, []byte{3, 4})), 2, true},
		{"packed block sizes, cut", slices.Concat(file, pbBytes(fieldBlockSizes, []byte{3, 0x80})), 2, false},
		{"fewer sizes than links", slices.Concat(file, size(3)), 2, false},
		{"more sizes than links", slices.Concat(file, size(3), size(4)), 1, false},
		{"size that is not the sum", slices.Concat(file, pbVarint(fieldFileSize, 8), size(3), size(4)), 2, false},
		{"size 2^64-1", slices.Concat(file, pbVarint(fieldFileSize, 1<<64-1)), 0, false},
		{"block size 2^64-1", slices.Concat(file, size(1<<64-1)), 1, false},
		{"sum over 2^63", slices.Concat(file, size(1<<63-1), size(1)), 2, false},
		{"sum that wraps round", slices.Concat(file, size(1<<63), size(1<<63), pbVarint(fieldFileSize, 0)), 2, false},
		{"raw with links", slices.Concat(pbVarint(fieldType, 0), size(3)), 1, false},
		{"symlink with links", pbVarint(fieldType, 4), 1, false},
		{"size too long a varint", slices.Concat(file, []byte{fieldFileSize << 3, 0x80, 0x00}), 0, false},
		{"mode over 32 bits", slices.Concat(dir, pbVarint(fieldMode, 1<<32)), 0, false},
		{"time", slices.Concat(dir, pbBytes(fieldModTime, pbVarint(fieldSeconds, 1))), 0, true},
		{"empty time", slices.Concat(dir, pbBytes(fieldModTime, nil)), 0, false},
		{"time out of range", slices.Concat(dir, pbBytes(fieldModTime, pbVarint(fieldSeconds, 1<<62))), 0, false},
		{"nanoseconds out of range", slices.Concat(dir, pbBytes(fieldModTime,
			protowire.AppendFixed32(protowire.AppendTag(nil, fieldNanos, protowire.Fixed32Type), 1e9))), 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeUnixFS(Node{Data: tt.in, Links: make([]Link, tt.links)})
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// FuzzDecodeUnixFS checks that decodeUnixFS accepts nothing that Kubo does not, that
// both then see the same, and that what it decodes survives encoding.
func FuzzDecodeUnixFS(f *testing.F) {
	f.Add(unixfs{Type: typeFile, FileSize: 7, BlockSizes: []uint64{3, 4}}.Encode(), uint8(2))
	f.Add(unixfs{Type: typeHAMTShard, Data: []byte{1}, HashType: hamtHash, Fanout: 256}.Encode(), uint8(1))
	f.Add(unixfs{Type: typeDirectory, Mode: 0o755, ModTime: time.Unix(1, 2)}.Encode(), uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, links uint8) {
		n := Node{Data: in, Links: make([]Link, links)}
		got, err := decodeUnixFS(n)
		if err != nil {
			return
		}
		want, err := boxounixfs.FSNodeFromBytes(in)
		if err != nil {
			t.Fatalf("accepted what boxo refuses: %v", err)
		}
		if uint64(got.Type) != uint64(want.Type()) || !bytes.Equal(got.Data, want.Data()) ||
			!slices.Equal(got.BlockSizes, want.BlockSizes()) || got.HashType != want.HashType() || got.Fanout != want.Fanout() {
			t.Fatalf("got %+v, boxo has %+v", got, want)
		}
		if got.Type == typeFile && want.FileSize() != 0 && got.FileSize != want.FileSize() {
			t.Fatalf("got size %d, boxo has %d", got.FileSize, want.FileSize())
		}
		n.Data = got.Encode()
		back, err := decodeUnixFS(n)
		if err != nil {
			t.Fatalf("refused its own encoding: %v", err)
		}
		if again := back.Encode(); !bytes.Equal(again, n.Data) {
			t.Fatalf("%x became %x", n.Data, again)
		}
	})
}
