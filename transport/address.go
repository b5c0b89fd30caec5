package transport

import (
	"net/netip"
	"sync"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// PublicNetwork is the name of the network that everyone shares: the Amino DHT
// of IPFS. Any other name is a separate network.
const PublicNetwork = "public"

// maxLocalPeers bounds how many peers found on the local network are remembered
// as such. Announcements on the local network cost nothing to forge, so the
// set must not grow with them.
const maxLocalPeers = 1024

// addressPolicy says which addresses this node dials and which of its own it
// announces.
//
// On the public network it dials public addresses only. Addresses there come
// from strangers, and a node that dialled whatever it is told could be made to
// probe the network it stands in: routers, databases, cloud metadata services.
// Two kinds of peers are exempt: those that the user named, and those that were
// found on the local network itself. The node's own private addresses are not
// announced either: they help nobody outside and tell of the network inside.
// Discovery on the local network does not depend on announced addresses; it
// sends those of the interfaces.
//
// On any other network everything is allowed, private and loopback addresses
// included, because such networks are made to run inside one.
//
// The policy is enforced as libp2p's connection gater, which sees each address
// after DNS resolution and right before a transport dials it, so a name that
// resolves to a private address is refused like the address. Incoming
// connections are all accepted: they reveal nothing.
type addressPolicy struct {
	public bool // the node is on the public network

	mu    sync.Mutex
	named map[peer.ID]struct{} // named by the user; never forgotten
	local map[peer.ID]struct{} // found on the local network; at most maxLocalPeers
}

func newAddressPolicy(netName string) *addressPolicy {
	return &addressPolicy{
		public: netName == PublicNetwork,
		named:  make(map[peer.ID]struct{}),
		local:  make(map[peer.ID]struct{}),
	}
}

// allow exempts peers that the user named.
func (p *addressPolicy) allow(ids ...peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		p.named[id] = struct{}{}
	}
}

// allowLocal exempts a peer that was found on the local network, in place of an
// arbitrary other one if there are maxLocalPeers already.
func (p *addressPolicy) allowLocal(id peer.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.local[id]; !ok && len(p.local) >= maxLocalPeers {
		for other := range p.local {
			delete(p.local, other)
			break
		}
	}
	p.local[id] = struct{}{}
}

func (p *addressPolicy) exempt(id peer.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, named := p.named[id]
	_, local := p.local[id]
	return named || local
}

// announced returns those of the node's own addresses that others are told.
func (p *addressPolicy) announced(addrs []ma.Multiaddr) []ma.Multiaddr {
	if !p.public {
		return addrs
	}
	return ma.FilterAddrs(addrs, isPublicAddr)
}

// InterceptAddrDial implements connmgr.ConnectionGater. An address through a
// relay passes: reaching the relay is a dial of its own, which is asked about
// separately.
func (p *addressPolicy) InterceptAddrDial(id peer.ID, addr ma.Multiaddr) bool {
	if !p.public || isPublicAddr(addr) {
		return true
	}
	if _, err := addr.ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return true
	}
	return p.exempt(id)
}

// InterceptPeerDial implements connmgr.ConnectionGater. It allows all: the
// policy is about addresses.
func (p *addressPolicy) InterceptPeerDial(peer.ID) bool { return true }

// InterceptAccept implements connmgr.ConnectionGater.
func (p *addressPolicy) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater.
func (p *addressPolicy) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (p *addressPolicy) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) {
	return true, 0
}

// isPublicAddr reports whether addr starts with an IP address that the whole
// internet can reach. A name is not: what it stands for is known only once it is
// resolved, and a zone (/ip6zone) marks an address of one link.
func isPublicAddr(addr ma.Multiaddr) bool {
	first, _ := ma.SplitFirst(addr)
	if first == nil || (first.Code() != ma.P_IP4 && first.Code() != ma.P_IP6) {
		return false
	}
	ip, ok := netip.AddrFromSlice(first.RawValue())
	return ok && isPublicIP(ip)
}

var (
	// nonPublic4 is what the IANA IPv4 special-purpose registry (RFC 6890) marks
	// as not globally reachable, with multicast and the former class E.
	nonPublic4 = prefixes(
		"0.0.0.0/8",       // this network
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier-grade NAT
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local; cloud metadata services
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // former 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, broadcast
	)
	// global6 holds all IPv6 unicast addresses that are given out so far.
	global6 = netip.MustParsePrefix("2000::/3")
	// nonPublic6 are the parts of global6 that are not globally reachable, or
	// that smuggle an IPv4 address past the list above.
	nonPublic6 = prefixes(
		"2001::/23",     // protocol assignments, Teredo among them
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4: carries an IPv4 address
		"3fff::/20",     // documentation
	)
	// nat64 is how hosts without IPv4 reach it (RFC 6052): the last four bytes are
	// the IPv4 address.
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// isPublicIP reports whether the whole internet can reach ip.
func isPublicIP(ip netip.Addr) bool {
	ip = ip.Unmap()
	if ip.Is4() {
		return !within(nonPublic4, ip)
	}
	if nat64.Contains(ip) {
		b := ip.As16()
		return isPublicIP(netip.AddrFrom4([4]byte(b[12:])))
	}
	return global6.Contains(ip) && !within(nonPublic6, ip)
}

func within(list []netip.Prefix, ip netip.Addr) bool {
	for _, p := range list {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func prefixes(cidrs ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(cidrs))
	for i, s := range cidrs {
		list[i] = netip.MustParsePrefix(s)
	}
	return list
}
