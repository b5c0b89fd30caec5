package transport

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// FuzzParseIdentity checks that a key that is accepted is whole: it is an Ed25519 key
// that signs what its public half verifies, and is written as a file that is accepted
// too.
func FuzzParseIdentity(f *testing.F) {
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	data, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add(append(bytes.Clone(data), 0x18, 1)) // an unknown field behind
	f.Fuzz(func(t *testing.T, in []byte) {
		key, err := parseIdentity(in)
		if err != nil {
			return
		}
		msg := []byte("message")
		sig, err := key.Sign(msg)
		if err != nil || key.Type() != crypto.Ed25519 {
			t.Fatalf("%s key: %v", key.Type(), err)
		}
		if ok, err := key.GetPublic().Verify(msg, sig); !ok || err != nil {
			t.Fatalf("its signature is wrong: %v", err)
		}
		data, err := crypto.MarshalPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseIdentity(data); err != nil || !again.Equals(key) {
			t.Fatalf("its own file: %v", err)
		}
	})
}

// FuzzAddress takes arbitrary bytes for a multiaddr, as strangers send them, and as
// text. What is dialled on a stranger's word on the public network has an address that
// the whole internet can reach, or goes through a relay.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{
		"/ip4/192.0.2.1/tcp/4801", "/ip4/1.1.1.1/udp/4801/quic-v1", "/ip6/::1/tcp/1", "/dns/example.org/tcp/443",
		"/ip4/10.0.0.1/tcp/1/p2p/12D3KooWGRUe5xQqvKzCwPEKdhqFxZkyDSrvvBSGr7Rt9GFRQYBU/p2p-circuit",
		"/ip6zone/eth0/ip6/fe80::1/tcp/1", "/ip6/64:ff9b::a00:1/tcp/1", "/ip6/::ffff:10.0.0.1/tcp/1", "/unix/tmp%2fx",
	} {
		a := ma.StringCast(s)
		f.Add(a.Bytes())
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if a, err := ma.NewMultiaddrBytes(in); err == nil {
			checkAddress(t, a)
		}
		a, err := ma.NewMultiaddr(string(in))
		if err == nil {
			checkAddress(t, a)
		}
		if infos, err := parsePeers([]string{string(in)}); err == nil && (len(infos) != 1 || infos[0].ID == "") {
			t.Fatalf("%q is %v", in, infos)
		}
	})
}

func checkAddress(t *testing.T, a ma.Multiaddr) {
	public := newAddressPolicy(PublicNetwork)
	dials := public.InterceptAddrDial("stranger", a)
	_, relayed := a.ValueForProtocol(ma.P_CIRCUIT)
	if dials && relayed != nil {
		if !isPublicAddr(a) || len(a) == 0 {
			t.Fatalf("%s would be dialled", a)
		}
		ip, ok := netip.AddrFromSlice(a[0].RawValue())
		if !ok || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip.Unmap().IsPrivate() {
			t.Fatalf("%s would be dialled", a)
		}
	}
	if told := public.announced([]ma.Multiaddr{a}); len(told) > 0 && !isPublicAddr(a) {
		t.Fatalf("%s would be announced", a)
	}
	public.allow("named")
	if other := newAddressPolicy("test"); !public.InterceptAddrDial("named", a) || !other.InterceptAddrDial("stranger", a) {
		t.Fatalf("%s would not be dialled", a)
	}
	peer.AddrInfosFromP2pAddrs(a)
}
