package gateway

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
)

// origin is what the Host header of a request stands for.
type origin struct {
	kind     originKind
	host     string // as boxo understands it: lower case but for the label
	label    string // for originSite, what stands before .ipfs.localhost
	port     string // ":8080", or "" for none
	name     bool   // for originGateway: by the name localhost, not by an address
	loopback bool   // the browser runs on this machine
}

type originKind int

const (
	originGateway originKind = iota // localhost, or an IP address
	originSite                      // CID.ipfs.localhost
	originName                      // NAME.ipns.localhost
)

// parseHost reads a Host header. It returns false for hosts that this gateway
// does not answer for.
func parseHost(host string) (origin, bool) {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name, port = host[:i], host[i:]
		if _, err := strconv.ParseUint(port[1:], 10, 16); err != nil {
			return origin{}, false
		}
	}
	lower := strings.ToLower(name)
	if lower == "localhost" {
		return origin{host: lower + port, port: port, name: true, loopback: true}, true
	}
	if label, ok := strings.CutSuffix(lower, ".ipfs.localhost"); ok {
		// A CIDv0 is only itself in its own case.
		if _, err := cid.Decode(name[:len(label)]); err == nil {
			label = name[:len(label)]
		}
		return origin{kind: originSite, host: label + ".ipfs.localhost" + port, label: label, port: port, loopback: true}, true
	}
	if strings.HasSuffix(lower, ".ipns.localhost") {
		return origin{kind: originName, host: lower + port, port: port, loopback: true}, true
	}
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
		name = name[1 : len(name)-1]
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return origin{}, false
	}
	return origin{host: host, port: port, loopback: addr.Unmap().IsLoopback()}, true
}
