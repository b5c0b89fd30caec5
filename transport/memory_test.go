package transport

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"pollux/blockstore"
	"pollux/dag"
	"pollux/transport/exchange"
)

func newStore(t *testing.T) *blockstore.Store {
	t.Helper()
	dir, err := blockstore.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := blockstore.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestMemoryForOthers has four peers take as much memory of a provider as they get: over 14
// streams each they ask for large blocks, and either read them, and then ask nothing more, or do
// not read. Somebody else fetches a site all the same.
func TestMemoryForOthers(t *testing.T) {
	const peers, streamsOfEach = 4, 14
	r := rand.NewChaCha8([32]byte{1})
	random := func(size int) blockstore.Block {
		b := make([]byte, size)
		r.Read(b)
		return blockstore.Sum(cid.Raw, b)
	}
	// The first so large that a peer, of whose streams some get none, can fill its share of the
	// memory; more than goes into the window of a stream that is not read.
	var large, site []blockstore.Block
	for range streamsOfEach {
		large = append(large, random(1450<<10))
	}
	var links []dag.Link
	for i := range 4 {
		b := random(mib)
		site = append(site, b)
		links = append(links, dag.Link{Name: string(rune('a' + i)), CID: b.CID(), Size: mib})
	}
	root := blockstore.Sum(cid.DagProtobuf, dag.Node{Links: links, Data: []byte{8, 1}}.Encode())
	store, log := newStore(t), slog.New(slog.DiscardHandler)
	if err := store.Put(append(append(site, root), large...)...); err != nil {
		t.Fatal(err)
	}
	for name, reads := range map[string]bool{"read": true, "not read": false} {
		t.Run(name, func(t *testing.T) {
			seed := startHost(t, HostConfig{})
			if _, err := exchange.NewServer(seed, store, log); err != nil {
				t.Fatal(err)
			}
			info := peer.AddrInfo{ID: seed.ID(), Addrs: seed.Addrs()}
			inUse := func() (stat network.ScopeStat) {
				seed.Network().ResourceManager().ViewService(exchange.Service, func(s network.ServiceScope) error {
					stat = s.Stat()
					return nil
				})
				return stat
			}
			for range peers {
				h := startHost(t, HostConfig{})
				if err := h.Connect(t.Context(), info); err != nil {
					t.Fatal(err)
				}
				for _, b := range large {
					st, err := h.NewStream(t.Context(), seed.ID(), exchange.Protocol)
					if err != nil {
						t.Fatal(err)
					}
					c := b.CID().Bytes()
					get := append([]byte{6, 1, byte(len(c))}, c...)
					// Who has as much as a peer gets is refused more.
					st.Write(append([]byte{1, 1, byte(len(get))}, get...))
					if reads {
						br := bufio.NewReader(st)
						for range 2 { // HELLO, BLOCKS
							n, _ := binary.ReadUvarint(br)
							br.Discard(int(n))
						}
					} else {
						io.ReadFull(st, make([]byte, 3)) // the answer has begun
					}
				}
			}
			if reads {
				eventually(t, "nothing is booked", func() bool { return inUse().Memory == 0 })
			} else if n := inUse().Memory; n < 110*mib {
				t.Errorf("%d bytes are booked", n)
			}
			mirror, own := startHost(t, HostConfig{}), newStore(t)
			server, err := exchange.NewServer(mirror, own, log)
			if err != nil {
				t.Fatal(err)
			}
			client, err := exchange.NewClient(mirror, server, log)
			if err != nil {
				t.Fatal(err)
			}
			from := make(chan exchange.Candidate, 1)
			from <- exchange.Candidate{AddrInfo: info, Provider: true}
			req := exchange.Request{Store: own, Root: root.CID()}
			if _, err := client.Fetch(t.Context(), req, from); err != nil {
				t.Fatal(err)
			}
		})
	}
}
