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
	"pollux/dag"
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
	example, _, _ = strings.Cut(example, "\n## ")
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
	}
	leaf := blockstore.Sum(cid.Raw, []byte("Castor and Pollux\n"))
	root := blockstore.Sum(cid.DagProtobuf, dag.Node{
		Links: []dag.Link{{Name: "twins", CID: leaf.CID(), Size: 18}}, Data: []byte{8, 1},
	}.Encode())
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	body := func(b blockstore.Block) body {
		return enc.body([]piece{{kind: kindBlock, bytes: b.Data()}}, levelFast)
	}
	hello := appendFrame(nil, frameHello)
	asked := appendOpen(hello[:len(hello):len(hello)], open{root: root.CID(), eager: firstWindow})
	asked = appendList(asked, list{count: firstWindow / nodeCost})
	answered := appendOpened(hello[:len(hello):len(hello)], opened{status: statusOpen})
	answered = appendHave(answered, true, nil)
	answered = appendIndex(answered, 0, true, true, body(root))
	answered = appendData(answered, 0, body(leaf))
	got := [][]byte{asked, answered, appendSpanFrame(nil, frameWant, []span{{0, 3}, {10, 1}})}
	if len(want) != len(got) {
		t.Errorf("%d listings, want %d", len(want), len(got))
	}
	for i := range got {
		if i >= len(want) || !bytes.Equal(got[i], want[i]) {
			t.Errorf("listing %d is to be\n%s", i+1, hex.Dump(got[i]))
		}
	}
}
