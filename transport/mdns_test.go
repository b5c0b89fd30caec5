package transport

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Two nodes that know nothing of each other meet, on the public network too,
// though neither announces its private addresses there.
func TestLocalDiscovery(t *testing.T) {
	if !multicastWorks(t) {
		t.Skip("no multicast on this machine; TestLocalPeerFound covers what follows a find")
	}
	for _, netName := range []string{"test-" + time.Now().Format("150405.000000"), PublicNetwork} {
		cfg := HostConfig{Network: netName, MDNS: true, Listen: []string{"/ip4/0.0.0.0/tcp/0"}}
		a, b := startHost(t, cfg), startHost(t, cfg)
		eventually(t, "nodes meet on network "+netName, func() bool {
			return a.Network().Connectedness(b.ID()) == network.Connected
		})
	}
}

// multicastWorks reports whether a multicast datagram comes back on any interface.
func multicastWorks(t *testing.T) bool {
	t.Helper()
	ifaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, iface := range ifaces {
		if iface.Flags&net.FlagUp == 0 || iface.Flags&net.FlagMulticast == 0 {
			continue
		}
		group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}
		in, err := net.ListenMulticastUDP("udp4", &iface, group)
		if err != nil {
			continue
		}
		defer in.Close()
		out, err := net.DialUDP("udp4", nil, group)
		if err != nil {
			continue
		}
		defer out.Close()
		if _, err := out.Write([]byte("pollux test")); err != nil {
			continue
		}
		in.SetReadDeadline(time.Now().Add(time.Second))
		for buf := make([]byte, 9000); ; {
			n, _, err := in.ReadFromUDP(buf)
			if err != nil {
				break
			}
			if string(buf[:n]) == "pollux test" {
				return true
			}
		}
	}
	return false
}

// What follows a find: the peer becomes exempt from the address policy and is
// connected; after close nothing more happens.
func TestLocalPeerFound(t *testing.T) {
	a := startHost(t, HostConfig{Network: PublicNetwork})
	b := startHost(t, HostConfig{Network: PublicNetwork})
	listening, err := b.Network().InterfaceListenAddresses()
	if err != nil {
		t.Fatal(err)
	}
	info := peer.AddrInfo{ID: b.ID(), Addrs: listening}
	d := newLocalDiscovery(a.Host, PublicNetwork, a.policy, testHostConfig(t, HostConfig{}).Logger)
	d.HandlePeerFound(info)
	if a.Network().Connectedness(b.ID()) != network.Connected {
		t.Error("not connected")
	}

	if err := d.close(); err != nil {
		t.Error(err)
	}
	a.Network().ClosePeer(b.ID())
	d.HandlePeerFound(info)
	if a.Network().Connectedness(b.ID()) == network.Connected {
		t.Error("connected after close")
	}
}

func TestMDNSServiceNames(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"public", "lab", "Lab", "my net", "a.b", "-x", "ünï", strings.Repeat("long", 30), strings.Repeat("long", 31)} {
		s := mdnsService(name)
		if other, ok := seen[s]; ok {
			t.Errorf("%q and %q share %s", name, other, s)
		}
		seen[s] = name
		label, ok := strings.CutSuffix(s, "._udp")
		if !ok || !strings.HasPrefix(label, "_pollux-") || len(label) > 63 || strings.Trim(label, "_abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("%q: service %q is no DNS name", name, s)
		}
	}
	if got := mdnsService("public"); got != "_pollux-public._udp" {
		t.Errorf("public: %s", got)
	}
}
