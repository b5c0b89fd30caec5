package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
)

// DefaultListen are the multiaddrs that a node listens on unless told otherwise.
// One of them that the machine cannot have, such as IPv6 where there is none, is
// left out.
var DefaultListen = []string{
	"/ip4/0.0.0.0/tcp/4801",
	"/ip4/0.0.0.0/udp/4801/quic-v1",
	"/ip6/::/tcp/4801",
	"/ip6/::/udp/4801/quic-v1",
}

const (
	// Between these two numbers of connections the connection manager closes the
	// least useful ones. Each costs about 100 KB; the DHT works well with these.
	defaultConnLow  = 64
	defaultConnHigh = 128
	// connGrace is how long a new connection is safe from trimming: long enough to
	// identify the peer and ask it for something.
	connGrace = 30 * time.Second
	// quicDelay is how much later than TCP addresses QUIC ones are dialled.
	quicDelay = 250 * time.Millisecond
)

// ErrAddrInUse reports a listen address that another program holds.
var ErrAddrInUse = errors.New("already in use by another program")

// HostConfig says how a node meets others.
type HostConfig struct {
	// Identity is the private key that the peer ID follows from. Required.
	Identity crypto.PrivKey
	// Listen are the multiaddrs to listen on: /ip4 or /ip6, then /tcp/PORT or
	// /udp/PORT/quic-v1; port 0 is any free one. Empty means DefaultListen.
	Listen []string
	// Network is PublicNetwork or the name of a separate one. Required. It decides
	// which addresses are dialled and announced, and whether there is any need to
	// get through NATs.
	Network string
	// MDNS finds and connects nodes of the same network on the local network.
	MDNS bool
	// NAT asks the router for a port mapping, by UPnP or NAT-PMP.
	NAT bool
	// ConnLow and ConnHigh are the connection manager's marks: above ConnHigh it
	// closes connections until ConnLow are left. Zero means a default (64, 128).
	ConnLow, ConnHigh int
	// UserAgent is what others are told: a program name and version.
	UserAgent string
	// RelayCandidates returns up to n peers that may be relays, and closes the
	// channel when ctx ends or there are no more. It is called on the public network
	// when this node turns out to be unreachable; nil means to do without relays.
	RelayCandidates func(ctx context.Context, n int) <-chan peer.AddrInfo
	// Traffic is told of all bytes on streams; nil: nobody is.
	Traffic metrics.Reporter
	// Logger is required.
	Logger *slog.Logger
}

// localHost is a libp2p host with the address policy that it follows and its
// discovery on the local network.
type localHost struct {
	host.Host
	policy    *addressPolicy
	discovery *localDiscovery // nil: none
}

// newHost makes a libp2p host and starts listening. It fails if the
// configuration contradicts itself, or with an error that names the address if one
// of cfg.Listen cannot be listened on (ErrAddrInUse if another program holds it);
// libp2p alone would be content with any one that works.
func newHost(cfg HostConfig) (*localHost, error) {
	if cfg.Network == "" {
		return nil, errors.New("network has no name")
	}
	if cfg.ConnLow == 0 {
		cfg.ConnLow = defaultConnLow
	}
	if cfg.ConnHigh == 0 {
		cfg.ConnHigh = defaultConnHigh
	}
	if cfg.ConnLow < 0 || cfg.ConnHigh < cfg.ConnLow {
		return nil, fmt.Errorf("connection limits: low %d, high %d", cfg.ConnLow, cfg.ConnHigh)
	}
	listen, err := parseListen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(cfg.ConnLow, cfg.ConnHigh, connmgr.WithGracePeriod(connGrace))
	if err != nil {
		return nil, fmt.Errorf("connection manager: %w", err)
	}
	resources, err := newResourceManager(cfg.Network, cfg.ConnHigh)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("resource manager: %w", err), conns.Close())
	}
	policy := newAddressPolicy(cfg.Network)

	opts := []libp2p.Option{
		libp2p.Identity(cfg.Identity),
		libp2p.UserAgent(cfg.UserAgent),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		// The first that both sides know is used. TLS is nearly twice as fast as
		// Noise where the CPU has AES instructions.
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, newMuxer()),
		libp2p.ConnectionManager(conns),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionGater(policy),
		libp2p.AddrsFactory(policy.announced),
		libp2p.SwarmOpts(swarm.WithDialRanker(rankTCPFirst)),
		libp2p.DisableMetrics(),
	}
	if cfg.Traffic != nil {
		opts = append(opts, libp2p.BandwidthReporter(cfg.Traffic))
	}
	opts = append(opts, reachability(cfg)...)
	if cfg.NAT {
		opts = append(opts, libp2p.NATPortMap())
	}
	// Last, because it turns relays off unless they were mentioned before.
	opts = append(opts, libp2p.NoListenAddrs)

	lh := &localHost{policy: policy}
	if lh.Host, err = libp2p.New(opts...); err != nil {
		return nil, errors.Join(err, conns.Close(), resources.Close())
	}
	if err := lh.listen(listen, len(cfg.Listen) > 0, cfg.Logger); err != nil {
		return nil, errors.Join(err, lh.Close())
	}
	if cfg.MDNS {
		// Not worth failing for: a server in a data centre may have no multicast.
		lh.discovery = newLocalDiscovery(lh.Host, cfg.Network, policy, cfg.Logger)
		if err := lh.discovery.start(); err != nil {
			cfg.Logger.Warn("cannot look for peers on the local network", "err", err)
		}
	}
	return lh, nil
}

// reachability returns the options by which a node behind a NAT becomes
// reachable: it learns from others whether it is (AutoNAT), lets itself be found
// through a relay, and replaces relayed connections by direct ones (hole
// punching). It never is a relay for others. On a separate network there is
// nobody outside to ask, and all members are taken to reach each other.
func reachability(cfg HostConfig) []libp2p.Option {
	if cfg.Network != PublicNetwork {
		return []libp2p.Option{libp2p.DisableRelay(), libp2p.ForceReachabilityPublic()}
	}
	opts := []libp2p.Option{
		libp2p.EnableRelay(),
		libp2p.EnableAutoNATv2(),
		libp2p.EnableHolePunching(),
	}
	if cfg.RelayCandidates != nil {
		opts = append(opts, libp2p.EnableAutoRelayWithPeerSource(cfg.RelayCandidates))
	}
	return opts
}

// newMuxer returns libp2p's yamux with a larger window to start from; see
// initialWindow.
func newMuxer() *yamux.Transport {
	mux := *yamux.DefaultTransport
	mux.InitialStreamWindowSize = initialWindow
	mux.MaxStreamWindowSize = maxWindow
	return &mux
}

// rankTCPFirst orders a peer's addresses for dialling: TCP, and QUIC a little
// later in case TCP gets no answer. libp2p does it the other way round, which
// saves round trips on short-lived connections; ours move bulk, where TCP was
// measured to move three times as much for the same CPU time.
func rankTCPFirst(addrs []ma.Multiaddr) []network.AddrDelay {
	var first, later []ma.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_QUIC_V1); err == nil {
			later = append(later, a)
		} else {
			first = append(first, a)
		}
	}
	ranked := swarm.DefaultDialRanker(first)
	var delay time.Duration
	if len(first) > 0 {
		delay = quicDelay
	}
	for _, r := range swarm.DefaultDialRanker(later) {
		r.Delay += delay
		ranked = append(ranked, r)
	}
	return ranked
}

// listen starts listening on addrs. Where required is false it leaves out
// addresses that the machine cannot have, as long as one is left; an address that
// another program holds is always an error, since the user has to decide.
func (lh *localHost) listen(addrs []listenAddr, required bool, log *slog.Logger) error {
	swarm := lh.Network().(*swarm.Swarm)
	listening := 0
	for _, a := range addrs {
		err := a.probe()
		if err == nil {
			err = swarm.AddListenAddr(a.Multiaddr)
		}
		switch {
		case err == nil:
			listening++
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("listen on %s: %w: stop that one, or listen on another port (port 0 is any free one)", a, ErrAddrInUse)
		case required:
			return fmt.Errorf("listen on %s: %w", a, err)
		default:
			log.Info("not listening on an address", "addr", a, "err", err)
		}
	}
	if listening == 0 {
		return errors.New("none of the default addresses can be listened on")
	}
	return nil
}

// Close stops discovery and closes the host with all its connections.
func (lh *localHost) Close() error {
	var err error
	if lh.discovery != nil {
		err = lh.discovery.close()
	}
	return errors.Join(err, lh.Host.Close())
}

// listenAddr is a multiaddr to listen on, taken apart.
type listenAddr struct {
	ma.Multiaddr
	udp  bool
	addr netip.AddrPort
}

// parseListen parses multiaddrs to listen on; none means DefaultListen.
func parseListen(list []string) ([]listenAddr, error) {
	if len(list) == 0 {
		list = DefaultListen
	}
	parsed := make([]listenAddr, len(list))
	for i, s := range list {
		a, err := parseListenAddr(s)
		if err != nil {
			return nil, fmt.Errorf("listen address %q: %w", s, err)
		}
		parsed[i] = a
	}
	return parsed, nil
}

func parseListenAddr(s string) (listenAddr, error) {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		return listenAddr{}, err
	}
	var codes [3]int
	for i, c := range a {
		if i < len(codes) {
			codes[i] = c.Code()
		}
	}
	isIP := codes[0] == ma.P_IP4 || codes[0] == ma.P_IP6
	isTCP := codes[1] == ma.P_TCP && len(a) == 2
	isQUIC := codes[1] == ma.P_UDP && codes[2] == ma.P_QUIC_V1 && len(a) == 3
	if !isIP || !isTCP && !isQUIC {
		return listenAddr{}, errors.New("want /ip4/ADDR/tcp/PORT or /ip4/ADDR/udp/PORT/quic-v1, or the same with /ip6")
	}
	ip, _ := netip.AddrFromSlice(a[0].RawValue())
	port, err := strconv.ParseUint(a[1].Value(), 10, 16)
	if err != nil {
		return listenAddr{}, err
	}
	return listenAddr{a, isQUIC, netip.AddrPortFrom(ip, uint16(port))}, nil
}

// probe fails if the address cannot be listened on. libp2p cannot tell: it
// listens on TCP with SO_REUSEPORT, so that dials may leave from the same port, and
// with that two nodes of one user would share a port and each get a random half
// of the connections.
func (a listenAddr) probe() error {
	if a.addr.Port() == 0 {
		return nil
	}
	version := "4"
	if a.addr.Addr().Is6() {
		version = "6"
	}
	if a.udp {
		c, err := net.ListenPacket("udp"+version, a.addr.String())
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := net.Listen("tcp"+version, a.addr.String())
	if err != nil {
		return err
	}
	return l.Close()
}
