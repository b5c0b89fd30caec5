package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"pollux/node/api"
	"pollux/node/gateway"
)

// serverGrace is how long requests under way may take to notice that the node is
// stopping. All of stopping is to take less than 5 seconds.
const serverGrace = 1500 * time.Millisecond

// Ready tells where a running node can be reached.
type Ready struct {
	Peer    string   // peer ID
	Addrs   []string // multiaddrs with /p2p/
	Gateway string   // URL without a final slash; "" if there is none
}

// Run is the daemon: it goes on the network, serves the gateway and the socket,
// and mirrors and announces the sites. It calls ready when all of these answer,
// which does not wait for peers, and returns nil when ctx has ended and so has
// everything that it started. The Node is still to be closed.
func (n *Node) Run(ctx context.Context, ready func(Ready)) error {
	n.mu.Lock()
	n.running = true
	n.mu.Unlock()

	// The gateway comes first: a taken port shows before anybody is told of us.
	web, err := n.listenGateway()
	if err != nil {
		return err
	}
	network, err := n.network()
	if err != nil {
		if web != nil {
			web.Close()
		}
		return err
	}
	socket, err := n.listenSocket()
	if err != nil {
		if web != nil {
			web.Close()
		}
		return err
	}

	g, gctx := errgroup.WithContext(ctx)
	serve := func(srv *http.Server, l net.Listener) {
		// Requests end when the node stops, not when it has stopped.
		srv.BaseContext = func(net.Listener) context.Context { return gctx }
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-gctx.Done()
			grace, cancel := context.WithTimeout(context.Background(), serverGrace)
			defer cancel()
			if srv.Shutdown(grace) != nil {
				srv.Close()
			}
			return nil
		})
	}
	if socket != nil {
		serve(api.NewServer(n, n.log), socket)
	}
	if web != nil {
		handler, err := gateway.New(gateway.Config{Blocks: n.gatewayBlocks(), Sites: n.gatewaySites, Logger: n.log})
		if err != nil {
			web.Close()
			return err
		}
		serve(gateway.NewServer(handler, n.log), web)
	}
	for _, work := range []func(context.Context){n.resume, n.scrub, n.heal, returnMemory} {
		g.Go(func() error {
			work(gctx)
			return nil
		})
	}
	n.mu.Lock()
	url := n.gateway
	n.mu.Unlock()
	ready(Ready{Peer: network.ID(), Addrs: network.Addrs(), Gateway: url})
	return g.Wait()
}

// listenSocket opens the socket for commands. It returns nil if there can be none
// because the repository cannot be changed; commands then read the repository
// themselves.
func (n *Node) listenSocket() (net.Listener, error) {
	err := n.readOnly
	if err == nil {
		var l net.Listener
		if l, err = api.Listen(filepath.Join(n.dir, api.SocketName)); err == nil {
			return l, nil
		}
	}
	if !isReadOnly(err) && !errors.Is(err, errReadOnly) {
		return nil, err
	}
	n.log.Warn("there is no socket, and nothing can be stored, only served", "err", err)
	return nil, nil
}

// listenGateway opens the gateway's port and notes its URL. It returns nil if
// there is to be no gateway.
func (n *Node) listenGateway() (net.Listener, error) {
	if n.cfg.Gateway == None {
		return nil, nil
	}
	l, err := net.Listen("tcp", n.cfg.Gateway)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("gateway address %s is in use by another program: stop that one, or choose another with --gateway", n.cfg.Gateway)
	}
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	addr := l.Addr().(*net.TCPAddr)
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	n.mu.Lock()
	n.gateway = fmt.Sprintf("http://%s", net.JoinHostPort(host, fmt.Sprint(addr.Port)))
	n.mu.Unlock()
	return l, nil
}

// siteURL is where the gateway serves a site on an origin of its own, or "".
func (n *Node) siteURL(root cid.Cid) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gateway == "" {
		return ""
	}
	_, port, _ := net.SplitHostPort(n.gateway[len("http://"):])
	return fmt.Sprintf("http://%s.ipfs.localhost:%s/", root, port)
}

// gatewayBlocks returns what the gateway reads from. Only readers on this machine
// may have content fetched: a gateway that is open to others and fetched whatever
// they name would be an open proxy.
func (n *Node) gatewayBlocks() gateway.Getter {
	host, _, _ := net.SplitHostPort(n.cfg.Gateway)
	ip := net.ParseIP(host)
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		return getter{node: n, timeout: gateway.RetrievalTimeout}
	}
	return n.store
}

func (n *Node) gatewaySites() []gateway.Site {
	var sites []gateway.Site
	for _, s := range n.sites.all() {
		st := n.siteStatus(s)
		sites = append(sites, gateway.Site{
			Target: cmp.Or(st.Name, st.Target), Root: s.Root, State: st.State, Bytes: st.Bytes, Missing: int(st.MissingBlocks),
		})
	}
	return sites
}
