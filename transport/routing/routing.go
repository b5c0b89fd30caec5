// Package routing finds the peers that hold a block, and tells others what this
// node holds: it is the node's place in a Kademlia DHT.
//
// A [Routing] joins the DHT of its network and stays joined ([Routing.Online]),
// looks up provider records ([Routing.FindProviders]) and keeps the provider
// records of this node alive ([Routing.Provide]). It knows keys (multihashes) and
// peers; it neither knows what a key stands for nor fetches anything.
//
// All it must remember is in one datastore ([OpenDatastore]): the keys to
// announce, when they were announced last, and the records that the DHT stores
// here for others. Losing the datastore is survivable: whoever uses this package
// provides the keys that it has at every start, which costs little for the keys
// that are known already. Forging it lets the node announce blocks that it
// does not hold, and answer with wrong provider records, which nodes have to
// expect of any peer.
package routing

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/amino"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// publicNetwork is the name of the network whose DHT is the Amino DHT of IPFS.
const publicNetwork = "public"

// maxProviders bounds how many providers one lookup yields. A fetch uses a dozen
// at a time, and for a popular key every node on the way returns as many as it
// likes.
const maxProviders = 256

// Mode says whether the node answers the queries of others.
type Mode int

const (
	// Auto is Server if the node is reachable, else Client. On the public network
	// that is found out by asking others (AutoNAT), and changes as the answers do.
	// On any other network it means Server: nobody is there who could probe this
	// node from outside, and members of a separate network are taken to reach
	// each other.
	Auto Mode = iota
	// Server stores records and answers queries.
	Server
	// Client only asks.
	Client
)

// Config says which DHT to join and how.
type Config struct {
	// Network is "public" for the Amino DHT, or the name of a separate network,
	// whose DHT has the protocol /pollux/NAME/kad/1.0.0. Required.
	Network string
	// Mode is the node's part in the DHT.
	Mode Mode
	// Bootstrap are the peers to join through. Nil means the usual ones of the
	// public network, and nobody on any other; empty means nobody: then the node
	// joins when a member connects to it.
	Bootstrap []peer.AddrInfo
	// Datastore keeps all state, under /routing/NETWORK. It has to be safe for
	// concurrent use and durable when a write returns; it stays the caller's to
	// close, after the host. Required.
	Datastore datastore.Batching
	// Logger is required.
	Logger *slog.Logger
}

// Routing is a node's place in the DHT of one network. It is safe for concurrent
// use.
type Routing struct {
	*announcer

	dht *dht.IpfsDHT
	log *slog.Logger

	stop    context.CancelFunc // ends what New started
	running sync.WaitGroup
}

// New joins the DHT in the background: it returns at once, whether or not there
// is a network. The caller must Close the Routing before it closes h. The context
// is for the construction alone.
func New(ctx context.Context, h host.Host, cfg Config) (*Routing, error) {
	if cfg.Network == "" {
		return nil, errors.New("routing: network has no name")
	}
	root := datastore.NewKey("routing").ChildString(cfg.Network)
	records := namespace.Wrap(cfg.Datastore, root.ChildString("dht"))
	d, err := dht.New(h, append(dhtOptions(h, cfg), dht.Datastore(records))...)
	if err != nil {
		return nil, fmt.Errorf("routing: %w", err)
	}
	a, err := newAnnouncer(ctx, d, namespace.Wrap(cfg.Datastore, root.ChildString("announce")), cfg.Logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("routing: %w", err), d.Close())
	}

	r := &Routing{announcer: a, dht: d, log: cfg.Logger}
	running, stop := context.WithCancel(context.Background())
	r.stop = stop
	if peers, own := bootstrapPeers(cfg); len(peers) > 0 {
		b := &bootstrapper{dht: d, peers: peers, keep: own, log: cfg.Logger}
		r.running.Go(func() { b.run(running) })
	}
	return r, nil
}

// dhtOptions returns what makes the DHT that of cfg.Network. On the public
// network that is what other Amino nodes do: keep and ask only peers with public
// addresses, store only public addresses for others, and let no address range
// fill the routing table.
func dhtOptions(h host.Host, cfg Config) []dht.Option {
	if cfg.Network != publicNetwork {
		mode := dht.ModeServer
		if cfg.Mode == Client {
			mode = dht.ModeClient
		}
		return []dht.Option{
			dht.ProtocolPrefix("/pollux/" + protocol.ID(cfg.Network)),
			dht.Mode(mode),
		}
	}
	mode := dht.ModeAuto
	switch cfg.Mode {
	case Client:
		mode = dht.ModeClient
	case Server:
		mode = dht.ModeServer
	}
	return []dht.Option{
		dht.Mode(mode),
		dht.QueryFilter(dht.PublicQueryFilter),
		dht.RoutingTableFilter(dht.PublicRoutingTableFilter),
		dht.RoutingTablePeerDiversityFilter(dht.NewRTPeerDiversityFilter(h,
			amino.DefaultMaxPeersPerIPGroupPerCpl, amino.DefaultMaxPeersPerIPGroup)),
		dht.AddressFilter(func(addrs []ma.Multiaddr) []ma.Multiaddr {
			return ma.FilterAddrs(addrs, manet.IsPublicAddr)
		}),
	}
}

// Peers returns how many peers the routing table has.
func (r *Routing) Peers() int { return r.dht.RoutingTable().Size() }

// Online reports whether the node is part of the DHT: the routing table has a
// peer to ask. Peers that cannot be reached leave the table when they are next
// asked for something, so this can be true for a while after the network is gone.
func (r *Routing) Online() bool { return r.Peers() > 0 }

// FindProviders yields the peers that announced c, each as soon as it is found and
// at most maxProviders of them; never this node itself. It ends when every peer
// close to c has been asked or ctx ends; leaving the loop ends the lookup.
//
// Providers come with addresses. One whose record has lost them is looked up by
// its peer ID after the others, and left out if nobody knows where it is. The same
// peer can come twice if more addresses of it turn up. Yielding nothing means that
// nobody was found, not that nobody has the block: see Online.
func (r *Routing) FindProviders(ctx context.Context, c cid.Cid) iter.Seq[peer.AddrInfo] {
	return func(yield func(peer.AddrInfo) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		self := r.dht.PeerID()
		bare := make(map[peer.ID]struct{}) // found without addresses
		for info := range r.dht.FindProvidersAsync(ctx, c, maxProviders) {
			if info.ID == self {
				continue
			}
			if len(info.Addrs) == 0 {
				bare[info.ID] = struct{}{}
				continue
			}
			delete(bare, info.ID)
			if !yield(info) {
				return
			}
		}
		for id := range bare {
			info, err := r.dht.FindPeer(ctx, id)
			if err != nil || len(info.Addrs) == 0 {
				continue
			}
			if !yield(info) {
				return
			}
		}
	}
}

// FindPeer returns the addresses of a peer. It fails if no peer close to its ID
// knows them.
func (r *Routing) FindPeer(ctx context.Context, id peer.ID) (peer.AddrInfo, error) {
	info, err := r.dht.FindPeer(ctx, id)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("find peer %s: %w", id, err)
	}
	return info, nil
}

// RelayCandidates returns up to n members of the DHT, from a random part of it,
// with their addresses: many of them are relays. It closes the channel when it
// has no more or ctx ends.
func (r *Routing) RelayCandidates(ctx context.Context, n int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	go func() {
		defer close(out)
		ids, err := r.dht.GetClosestPeers(ctx, rand.Text())
		if err != nil {
			return
		}
		for _, id := range ids[:min(n, len(ids))] {
			info := r.dht.Host().Peerstore().PeerInfo(id)
			if len(info.Addrs) == 0 {
				continue
			}
			select {
			case out <- info:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Close leaves the DHT and makes everything durable that the next start needs.
// What was being announced is announced again then.
func (r *Routing) Close() error {
	r.stop()
	r.running.Wait()
	return errors.Join(r.announcer.close(), r.dht.Close())
}
