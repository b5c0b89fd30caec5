package transport

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

const (
	// maxLocalDials bounds the connections that are being made at once to peers
	// found on the local network. Further finds are dropped: a flood of forged
	// announcements must not become a flood of dials, and real peers also find us.
	maxLocalDials = 8
	// localDialTimeout is generous for a local network, where a dial takes
	// milliseconds.
	localDialTimeout = 10 * time.Second
)

// localDiscovery announces the node on the local network by multicast DNS and
// connects to the nodes of the same network that it hears of.
type localDiscovery struct {
	host    host.Host
	policy  *addressPolicy
	log     *slog.Logger
	service mdns.Service

	ctx    context.Context // ends the dials under way
	cancel context.CancelFunc
	slots  chan struct{} // one token per dial under way

	mu      sync.Mutex // orders dialing.Add before dialing.Wait
	closed  bool
	dialing sync.WaitGroup
}

func newLocalDiscovery(h host.Host, netName string, policy *addressPolicy, log *slog.Logger) *localDiscovery {
	d := &localDiscovery{host: h, policy: policy, log: log, slots: make(chan struct{}, maxLocalDials)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.service = mdns.NewMdnsService(h, mdnsService(netName), d)
	return d
}

// start fails where the machine has no interface that multicast can be sent on.
func (d *localDiscovery) start() error { return d.service.Start() }

var mdnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// mdnsService returns the DNS-SD service type that nodes of a network share. A
// name that is no short lower-case DNS label stands there as its hash, since DNS
// neither takes every name nor tells upper case from lower.
func mdnsService(netName string) string {
	if !mdnsLabel.MatchString(netName) {
		sum := sha256.Sum256([]byte(netName))
		netName = "x-" + hex.EncodeToString(sum[:12])
	}
	return "_pollux-" + netName + "._udp"
}

// HandlePeerFound implements mdns.Notifee, which calls it in a goroutine of its
// own. The announcement is not authenticated; the connection is.
func (d *localDiscovery) HandlePeerFound(info peer.AddrInfo) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	default:
		return
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.dialing.Add(1)
	d.mu.Unlock()
	defer d.dialing.Done()

	d.policy.allowLocal(info.ID)
	ctx, cancel := context.WithTimeout(d.ctx, localDialTimeout)
	defer cancel()
	if err := d.host.Connect(ctx, info); err != nil {
		d.log.Debug("cannot reach peer on the local network", "peer", info.ID, "err", err)
		return
	}
	d.log.Debug("connected to peer on the local network", "peer", info.ID)
}

func (d *localDiscovery) close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	err := d.service.Close()
	d.dialing.Wait()
	return err
}
