package transport

import (
	"math"
	"net/netip"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"

	"pollux/transport/exchange"
)

// The limits below are what libp2p's resource manager enforces on every
// connection and stream, whoever opened it. Reaching one refuses the new
// connection or stream and leaves the others alone. They are fixed figures
// rather than shares of the machine's memory, so that a node behaves the same
// everywhere and the documentation can state them.
//
// Memory limits count what a stream may buffer, not what it does: yamux books
// 256 KiB when a stream opens and more whenever it widens the stream's window, up
// to maxWindow, and keeps the booking until the stream ends. A booking for a
// wider window is granted only while less than half of each limit above it is
// in use; where it is refused the stream stays slow without any sign of it.
// Hence the limits for a peer and for the system are twice what the fastest
// expected use books. A stream that is read as it arrives, as all of ours are,
// occupies nearly none of it.
const (
	mib = 1 << 20

	// initialWindow is how many bytes a peer may send on a new stream before the
	// first acknowledgement, once the stream is accepted. At yamux's own
	// 256 KiB the first second of a transfer over 100 ms moves a third of what it
	// moves at 1 MiB; at 4 MiB a slow reader's connection buffers too much.
	initialWindow = 1 * mib
	// maxWindow bounds one stream to maxWindow per round trip: 107 MB/s at 150 ms.
	maxWindow = 16 * mib

	// peerMemory: two bulk streams with full windows (32 MiB) and the small
	// streams of the DHT and identify, doubled.
	peerMemory = 80 * mib
	// systemMemory: bulk streams with full windows from the 12 peers that a
	// transfer uses at most (192 MiB), and 1,200 small streams (300 MiB), doubled.
	systemMemory = 1 << 30
	// transientMemory: what connections may book before their peer has proved who
	// it is, and streams before their protocol is known; 256 of each.
	transientMemory = 64 * mib

	// connsPerPeer allows for TCP, QUIC, a relayed connection and the attempts
	// that a simultaneous dial from both sides leaves over.
	connsPerPeer = 8
	// streamsPerPeer: a peer fetching from us holds a few; a DHT peer one.
	streamsPerPeer = 256

	// connsPerIP is as many as libp2p dials one peer with at once; the second
	// figure is for an IPv6 /48, which one customer line commonly gets.
	connsPerIP  = 8
	connsPerNet = 64

	// Sync protocol: streams that peers opened to us, each a request being
	// served, and those that we opened; in total and by peer. The memory is what
	// the handlers book for frames that they are building, or sending; they get three fifths
	// of it, and keep to a limit of their own below that.
	syncStreams       = 512
	syncStreamsByPeer = 32
	syncMemory        = 256 * mib
	syncMemoryByPeer  = 64 * mib
)

// limits returns the resource limits of a node whose connection manager trims
// connections at connHigh.
func limits(connHigh int) rcmgr.ConcreteLimitConfig {
	// The connection manager trims a little after the fact and spares what it is
	// told to protect, so the hard limit stands clear of its high-water mark.
	conns := rcmgr.LimitVal(2*connHigh + 64)
	streams := 16 * conns

	sync := rcmgr.ResourceLimits{
		Streams: 2 * syncStreams, StreamsInbound: syncStreams, StreamsOutbound: syncStreams,
		Memory: syncMemory,
	}
	syncByPeer := rcmgr.ResourceLimits{
		Streams: 2 * syncStreamsByPeer, StreamsInbound: syncStreamsByPeer, StreamsOutbound: syncStreamsByPeer,
		Memory: syncMemoryByPeer,
	}

	own := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns * 3 / 4, ConnsOutbound: conns * 3 / 4,
			FD:      conns,
			Streams: streams, StreamsInbound: streams * 3 / 4, StreamsOutbound: streams * 3 / 4,
			Memory: systemMemory,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: 128, ConnsInbound: 64, ConnsOutbound: 128,
			FD:      128,
			Streams: 256, StreamsInbound: 128, StreamsOutbound: 256,
			Memory: transientMemory,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: connsPerPeer, ConnsInbound: connsPerPeer, ConnsOutbound: connsPerPeer,
			FD:      connsPerPeer,
			Streams: 2 * streamsPerPeer, StreamsInbound: streamsPerPeer, StreamsOutbound: streamsPerPeer,
			Memory: peerMemory,
		},
		Conn: rcmgr.ResourceLimits{
			Conns: 1, ConnsInbound: 1, ConnsOutbound: 1, FD: 1,
			// QUIC books its connection window here: 15 MiB.
			Memory: 32 * mib,
		},
		Stream: rcmgr.ResourceLimits{
			Streams: 1, StreamsInbound: 1, StreamsOutbound: 1,
			Memory: maxWindow,
		},
		Service:      map[string]rcmgr.ResourceLimits{exchange.Service: sync},
		ServicePeer:  map[string]rcmgr.ResourceLimits{exchange.Service: syncByPeer},
		Protocol:     map[protocol.ID]rcmgr.ResourceLimits{exchange.Protocol: sync},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{exchange.Protocol: syncByPeer},
	}

	// For what is not ours (identify, ping, AutoNAT, hole punching, the DHT)
	// libp2p's own figures for a node that gives it 1 GiB.
	defaults := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&defaults)
	return own.Build(defaults.Scale(1<<30, int(conns)))
}

// newResourceManager returns a resource manager with the limits above.
//
// On the public network it also bounds connections by IP address, against one
// machine that poses as many peers, and how fast new ones arrive from it
// (libp2p's default: 16 at once, then one in 5 s). Other networks have no such
// bounds: they run on a few machines, often behind one address, and their
// members are trusted not to crowd each other out. Loopback has none anywhere.
func newResourceManager(netName string, connHigh int) (network.ResourceManager, error) {
	loopback4 := rcmgr.NetworkPrefixLimit{Network: netip.MustParsePrefix("127.0.0.0/8"), ConnCount: math.MaxInt}
	loopback6 := rcmgr.NetworkPrefixLimit{Network: netip.MustParsePrefix("::1/128"), ConnCount: math.MaxInt}
	opts := []rcmgr.Option{
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{loopback4}, []rcmgr.NetworkPrefixLimit{loopback6}),
	}
	if netName == PublicNetwork {
		opts = append(opts, rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{
				{PrefixLength: 56, ConnCount: connsPerIP},
				{PrefixLength: 48, ConnCount: connsPerNet},
			}))
	} else {
		opts = append(opts,
			rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{}, []rcmgr.ConnLimitPerSubnet{}),
			rcmgr.WithConnRateLimiters(&rate.Limiter{}))
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits(connHigh)), opts...)
}
