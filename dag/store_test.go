package dag

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
)

var errNotHeld = errors.New("not held")

// memStore is a store in memory. It is its own writer for every goroutine.
type memStore struct {
	mu     sync.Mutex
	blocks map[cid.Cid]blockstore.Block
	gets   int
	syncs  int

	onWrite func(blockstore.Block) error // called before each write, if set
}

func newMemStore() *memStore { return &memStore{blocks: map[cid.Cid]blockstore.Block{}} }

func (m *memStore) NewWriter() *memStore { return m }
func (m *memStore) Flush() error         { return nil }

func (m *memStore) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	return nil
}

func (m *memStore) Write(b blockstore.Block) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onWrite != nil {
		if err := m.onWrite(b); err != nil {
			return false, err
		}
	}
	_, held := m.blocks[b.CID()]
	kept, err := blockstore.NewBlock(b.CID(), bytes.Clone(b.Data()))
	m.blocks[b.CID()] = kept
	return !held, err
}

func (m *memStore) Get(_ context.Context, c cid.Cid) (blockstore.Block, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	b, ok := m.blocks[c]
	if !ok {
		return blockstore.Block{}, errNotHeld
	}
	return b, nil
}

func (m *memStore) Has(c cid.Cid) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.blocks[c]
	return ok, nil
}

func (m *memStore) put(b blockstore.Block) error {
	_, err := m.Write(b)
	return err
}

// putNode stores n and returns a link to it.
func (m *memStore) putNode(t testing.TB, name string, n Node) Link {
	t.Helper()
	l, err := putNode(n, m.put)
	if err != nil {
		t.Fatal(err)
	}
	l.Name = name
	return l
}

// putFile stores data as one raw leaf and returns a link to it.
func (m *memStore) putFile(t testing.TB, name, data string) Link {
	t.Helper()
	p, err := putLeaf([]byte(data), m.put)
	if err != nil {
		t.Fatal(err)
	}
	p.link.Name = name
	return p.link
}

// putDir stores a plain directory with the given entries, in their order.
func (m *memStore) putDir(t testing.TB, name string, entries ...Link) Link {
	t.Helper()
	return m.putNode(t, name, Node{Links: entries, Data: unixfs{Type: typeDirectory}.Encode()})
}

// discard is a store that keeps nothing.
type discard struct{}

func (discard) Get(context.Context, cid.Cid) (blockstore.Block, error) {
	return blockstore.Block{}, blockstore.ErrNotFound
}
func (discard) Has(cid.Cid) (bool, error) { return false, nil }

func (discard) NewWriter() discard                   { return discard{} }
func (discard) Write(blockstore.Block) (bool, error) { return true, nil }
func (discard) Flush() error                         { return nil }
func (discard) Sync() error                          { return nil }
