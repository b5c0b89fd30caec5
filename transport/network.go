package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"

	"pollux/transport/exchange"
	"pollux/transport/routing"
)

// Config says how a node takes part in a network.
type Config struct {
	// KeyFile holds the node's identity; it is created if there is none. Without a
	// KeyFile the node has an identity that is not kept.
	KeyFile string
	// StateDir is a directory for what the DHT remembers. Without one it is kept in
	// memory.
	StateDir string
	// Network is PublicNetwork or the name of a separate one.
	Network string
	// Listen are multiaddrs; empty means those of DefaultListen that the machine has.
	Listen []string
	// Bootstrap are multiaddrs with /p2p/ of peers to join through. Nil means the
	// usual ones of the public network, empty no one.
	Bootstrap []string
	// Mode is the part in the DHT.
	Mode routing.Mode
	// MDNS looks for nodes of the same network on the local network, PortMapping
	// asks the router to let others in.
	MDNS, PortMapping bool
	// ConnLow and ConnHigh are the connection manager's marks; zero means a default.
	ConnLow, ConnHigh int
	// UserAgent is what other nodes are told of this program.
	UserAgent string
	// Store is served from.
	Store exchange.Store
	// Logger is required.
	Logger *slog.Logger
}

// MemoryLimit is the most that connections and streams may buffer, in bytes.
const MemoryLimit = systemMemory

// ErrBadAddress reports text that is no multiaddr of another peer.
var ErrBadAddress = errors.New("not the address of a peer")

// Network is a node's presence among its peers.
type Network struct {
	host    *localHost
	routing *routing.Routing
	client  *exchange.Client
	state   datastore.Batching
	traffic *traffic
	log     *slog.Logger
	reach   *reachabilityWatch
	first   bool          // others join through it: it knows nobody to join through
	lookups chan struct{} // one token a look for a single block in the DHT

	// relays is the routing, once the host, which is older, may ask it for relays.
	relays atomic.Pointer[routing.Routing]
}

// Peer describes a connected peer.
type Peer struct {
	ID      string
	Addrs   []string      // of the open connections
	RTT     time.Duration // 0 if it was not measured yet
	Inbound bool          // the peer dialled
	Agent   string        // untrusted; "" if unknown
}

// Start makes the node reachable, serves the store to peers and joins the DHT in
// the background. The network does not have to be up.
func Start(ctx context.Context, cfg Config) (_ *Network, err error) {
	n := &Network{log: cfg.Logger, traffic: &traffic{}, lookups: make(chan struct{}, maxLookups)}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	load := newIdentity
	if cfg.KeyFile != "" {
		load = func() (crypto.PrivKey, error) { return LoadIdentity(cfg.KeyFile) }
	}
	key, err := load()
	if err != nil {
		return nil, err
	}
	bootstrap, err := parsePeers(cfg.Bootstrap)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	n.first = bootstrap != nil && len(bootstrap) == 0
	n.host, err = newHost(HostConfig{
		Identity: key, Listen: cfg.Listen, Network: cfg.Network,
		MDNS: cfg.MDNS, NAT: cfg.PortMapping, ConnLow: cfg.ConnLow, ConnHigh: cfg.ConnHigh,
		UserAgent: cfg.UserAgent, Traffic: n.traffic, Logger: cfg.Logger,
		RelayCandidates: n.relayCandidates,
	})
	if err != nil {
		return nil, err
	}
	for _, p := range bootstrap {
		n.host.policy.allow(p.ID)
	}
	if n.reach, err = watchReachability(n.host); err != nil {
		return nil, err
	}
	server, err := exchange.NewServer(n.host, cfg.Store, cfg.Logger)
	if err != nil {
		return nil, err
	}
	if n.client, err = exchange.NewClient(n.host, server, cfg.Logger); err != nil {
		return nil, err
	}
	if n.state, err = routing.OpenDatastore(cfg.StateDir, cfg.Logger); err != nil {
		return nil, err
	}
	n.routing, err = routing.New(ctx, n.host, routing.Config{
		Network: cfg.Network, Mode: cfg.Mode, Bootstrap: bootstrap, Datastore: n.state, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	n.relays.Store(n.routing)
	return n, nil
}

// PeerID returns the peer ID that the key file stands for; see LoadIdentity.
func PeerID(keyFile string) (string, error) {
	key, err := LoadIdentity(keyFile)
	if err != nil {
		return "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return id.String(), err
}

// parsePeers parses multiaddrs that end in /p2p/PEER. Nil stays nil.
func parsePeers(addrs []string) ([]peer.AddrInfo, error) {
	if addrs == nil {
		return nil, nil
	}
	var list []ma.Multiaddr
	for _, s := range addrs {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		list = append(list, a)
	}
	infos, err := peer.AddrInfosFromP2pAddrs(list...)
	if infos == nil {
		infos = []peer.AddrInfo{}
	}
	return infos, err
}

func (n *Network) relayCandidates(ctx context.Context, count int) <-chan peer.AddrInfo {
	if r := n.relays.Load(); r != nil {
		return r.RelayCandidates(ctx, count)
	}
	none := make(chan peer.AddrInfo)
	close(none)
	return none
}

// Close leaves the network: transfers end, connections close, and what is still to
// be announced is kept for the next start.
func (n *Network) Close() error {
	var errs []error
	if n.routing != nil {
		errs = append(errs, n.routing.Close())
	}
	if n.reach != nil {
		errs = append(errs, n.reach.close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.state != nil {
		errs = append(errs, n.state.Close())
	}
	return errors.Join(errs...)
}

// ID returns the node's peer ID.
func (n *Network) ID() string { return n.host.ID().String() }

// Addrs returns the multiaddrs, with /p2p/, that others are told to dial.
func (n *Network) Addrs() []string {
	return p2pAddrs(peer.AddrInfo{ID: n.host.ID(), Addrs: n.host.Addrs()})
}

func p2pAddrs(info peer.AddrInfo) []string {
	addrs, err := peer.AddrInfoToP2pAddrs(&info)
	if err != nil {
		return nil // only for an empty peer ID
	}
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// Online says whether the node knows a member of the DHT.
func (n *Network) Online() bool { return n.routing.Online() }

// Reachability is "public" if strangers can dial the node, "private" if not, and
// "unknown" until that is found out.
func (n *Network) Reachability() string { return strings.ToLower(n.reach.now().String()) }

// Traffic returns the bytes sent and received since Start, of all protocols.
func (n *Network) Traffic() (sent, received int64) { return n.traffic.total() }

// Fetch brings a DAG into the store from whoever has it: connected nodes, and the
// providers that the DHT knows. See exchange.Client.Fetch.
func (n *Network) Fetch(ctx context.Context, req exchange.Request) (exchange.Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return n.client.Fetch(ctx, req, n.candidates(ctx, req.Root, n.found))
}

// Get brings one block into the store from whoever has it. See exchange.Client.Get.
func (n *Network) Get(ctx context.Context, req exchange.GetRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return n.client.Get(ctx, req, n.candidates(ctx, req.CID, n.inTurn(n.found)))
}

// Mirror is another node that holds a DAG, or is said to.
type Mirror struct {
	ID       string
	Addrs    []string // multiaddrs with /p2p/ to dial it at, as far as they are known
	Standing exchange.Standing
	RTT      time.Duration // 0 if it is unreachable
	Share    float64       // of the leaves that it holds, from 0 to 1
}

// Mirrors finds out who holds a DAG, the nearest first: of connected nodes, and of the
// providers that the DHT knows. See exchange.Client.Survey.
func (n *Network) Mirrors(ctx context.Context, req exchange.SurveyRequest) ([]Mirror, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found, err := n.client.Survey(ctx, req, n.search(ctx, req.Root))
	var mirrors []Mirror
	for _, p := range found {
		mirrors = append(mirrors, Mirror{
			ID: p.Peer.ID.String(), Addrs: p2pAddrs(p.Peer), Standing: p.Standing, RTT: p.RTT, Share: p.Share,
		})
	}
	return mirrors, err
}

// Provide announces this node as a provider, now and until Retain, across
// restarts. See routing.Routing.
func (n *Network) Provide(ctx context.Context, keys ...multihash.Multihash) error {
	return n.routing.Provide(ctx, keys...)
}

// Retain ends the announcing of all keys that keep does not want.
func (n *Network) Retain(ctx context.Context, keep func(multihash.Multihash) bool) error {
	return n.routing.Retain(ctx, keep)
}

// Announced tells how far announcing has come.
func (n *Network) Announced(ctx context.Context) (routing.Stats, error) { return n.routing.Stats(ctx) }

// Peers lists the connected peers, the nearest first.
func (n *Network) Peers() []Peer {
	var peers []Peer
	for _, id := range n.host.Network().Peers() {
		if p, ok := n.peer(id); ok {
			peers = append(peers, p)
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int {
		if (a.RTT == 0) != (b.RTT == 0) {
			return int(b.RTT - a.RTT)
		}
		return int(a.RTT - b.RTT)
	})
	return peers
}

func (n *Network) peer(id peer.ID) (Peer, bool) {
	conns := n.host.Network().ConnsToPeer(id)
	if len(conns) == 0 {
		return Peer{}, false
	}
	p := Peer{ID: id.String(), RTT: n.host.Peerstore().LatencyEWMA(id)}
	for _, c := range conns {
		p.Addrs = append(p.Addrs, c.RemoteMultiaddr().String())
		p.Inbound = c.Stat().Direction == network.DirInbound
	}
	if agent, err := n.host.Peerstore().Get(id, "AgentVersion"); err == nil {
		p.Agent, _ = agent.(string)
	}
	return p, true
}

// Connections returns the number of open connections.
func (n *Network) Connections() int { return len(n.host.Network().Conns()) }

// Connect dials a multiaddr that ends in /p2p/PEER, on a private address too: the
// user named it.
func (n *Network) Connect(ctx context.Context, addr string) (Peer, error) {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %q: %w", ErrBadAddress, addr, err)
	}
	if info.ID == n.host.ID() {
		return Peer{}, fmt.Errorf("%w: that is this node itself", ErrBadAddress)
	}
	n.host.policy.allow(info.ID)
	if err := n.host.Connect(ctx, *info); err != nil {
		return Peer{}, err
	}
	p, ok := n.peer(info.ID)
	if !ok {
		return Peer{}, errors.New("the peer closed the connection at once")
	}
	return p, nil
}

// reachabilityWatch follows what AutoNAT finds out.
type reachabilityWatch struct {
	sub  event.Subscription
	last chan network.Reachability // holds one value
	done chan struct{}
}

func watchReachability(h *localHost) (*reachabilityWatch, error) {
	sub, err := h.EventBus().Subscribe(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		return nil, err
	}
	w := &reachabilityWatch{sub: sub, last: make(chan network.Reachability, 1), done: make(chan struct{})}
	w.last <- network.ReachabilityUnknown
	go func() {
		defer close(w.done)
		for e := range sub.Out() {
			<-w.last
			w.last <- e.(event.EvtLocalReachabilityChanged).Reachability
		}
	}()
	return w, nil
}

func (w *reachabilityWatch) now() network.Reachability {
	r := <-w.last
	w.last <- r
	return r
}

func (w *reachabilityWatch) close() error {
	err := w.sub.Close()
	<-w.done
	return err
}
