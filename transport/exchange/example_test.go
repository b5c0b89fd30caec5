package exchange

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

// TestExample makes the frames of the example in docs/protocol.md.
func TestExample(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(doc), "\n## Example\n")
	if !ok {
		t.Fatal("no example")
	}
	var want [][]byte // what stands in each listing
	for i, listing := range strings.Split(example, "```") {
		if i%2 == 0 {
			continue
		}
		var frames []byte
		for line := range strings.Lines(listing) {
			// Bytes come first, comments after at least two spaces at column 50.
			b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(line[:min(len(line), 50)]), " ", ""))
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			frames = append(frames, b...)
		}
		want = append(want, frames)
		if len(want) == 3 {
			break
		}
	}
	once := []byte("Castor and Pollux\n")
	leaf := blockstore.Sum(cid.Raw, once)
	absent, err := cid.Decode("bafkreih7uy2yhx5gobvypuuexbvq22j2cypeqqfk2lc46225e7b3syq7pu")
	if err != nil {
		t.Fatal(err)
	}
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	hello := appendFrame(nil, frameHello)
	got := [][]byte{
		appendWant(hello[:len(hello):len(hello)], []ask{{cid: leaf.CID()}, {cid: absent}}),
		appendMiss(appendData(hello[:len(hello):len(hello)], enc, []piece{{bytes: once}}), 1),
		appendData(nil, enc, []piece{{bytes: once}, {bytes: bytes.Repeat(once, 4)}}),
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("listing %d:\n got %x\nwant %x", i+1, got[i], want[i])
		}
	}
}
