package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"pollux/node"
	"pollux/node/api"
)

func (a *app) daemonCommand() *cobra.Command {
	var flags daemonFlags
	cmd := &cobra.Command{
		Use:   "daemon [DIR…]",
		Short: "Run the node, and seed each DIR first",
		Long: `Run the node: mirror what is followed, serve what is held to peers and to the
browsers on this machine. Each DIR is added first.`,
		Args: func(*cobra.Command, []string) error {
			// Checked alone, so that what is wrong with a flag is a usage error.
			cfg := node.DefaultConfig()
			flags.apply(&cfg)
			return cfg.Check()
		},
		RunE: func(cmd *cobra.Command, dirs []string) error {
			err := a.runDaemon(cmd.Context(), flags, dirs)
			if err == nil || cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil // a signal is how a daemon ends
			}
			return fmt.Errorf("daemon: %w", err)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.listen, "listen", nil, "listen for peers on `multiaddr` (repeatable)")
	f.StringArrayVar(&flags.bootstrap, "bootstrap", nil, "join the network through `multiaddr` (repeatable; none for no one)")
	f.StringVar(&flags.gateway, "gateway", "", "serve browsers on `address` (default 127.0.0.1:8080; none for no gateway)")
	f.StringVar(&flags.dht, "dht", "", "`part` to take in the DHT: auto, server or client (default auto)")
	f.StringVar(&flags.network, "network", "", "`name` of the network to be on (default public)")
	f.StringVar(&flags.announce, "announce", "", "`what` to announce: all, entities or roots (default all)")
	return cmd
}

// daemonFlags are settings that override the configuration, unless they are empty.
type daemonFlags struct {
	listen, bootstrap               []string
	gateway, dht, network, announce string
}

func (f daemonFlags) apply(cfg *node.Config) {
	if len(f.listen) > 0 {
		cfg.Listen = f.listen
	}
	if len(f.bootstrap) > 0 {
		cfg.Bootstrap = f.bootstrap
	}
	cfg.Gateway = cmp.Or(f.gateway, cfg.Gateway)
	cfg.DHT = cmp.Or(node.DHTMode(f.dht), cfg.DHT)
	cfg.Network = cmp.Or(f.network, cfg.Network)
	cfg.Announce = cmp.Or(node.AnnounceMode(f.announce), cfg.Announce)
}

// runDaemon adds dirs and runs the node until ctx ends.
func (a *app) runDaemon(ctx context.Context, flags daemonFlags, dirs []string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	flags.apply(&cfg)
	n, err := node.Open(ctx, a.repo, cfg, a.logger(cfg))
	if err != nil {
		return err
	}
	defer n.Close()

	var seeds []seed
	for _, dir := range dirs {
		s, err := a.seed(ctx, n, dir)
		if err != nil {
			return err
		}
		seeds = append(seeds, s)
	}

	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return n.Run(ctx, func(ready node.Ready) {
		a.printReady(cfg, ready, seeds)
		if !a.json && !a.quiet {
			watch.Go(func() { a.reportPeers(ctx, n) })
		}
	})
}

// seed is a directory that the daemon added.
type seed struct {
	dir string
	api.AddResult
}

func (a *app) seed(ctx context.Context, n *node.Node, dir string) (seed, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return seed{}, err
	}
	show, done := a.progress()
	defer done()
	res, err := n.Add(ctx, api.AddRequest{Path: api.Raw(path)}, show)
	if err != nil {
		return seed{}, fmt.Errorf("add %s: %w", dir, err)
	}
	return seed{dir, res}, nil
}

// addedEvent and readyEvent are what the daemon prints as JSON.
type (
	addedEvent struct {
		Event string `json:"event"` // "added"
		api.AddResult
	}
	readyEvent struct {
		Event     string   `json:"event"` // "ready"
		Peer      string   `json:"peer"`
		Addrs     []string `json:"addrs"`
		Gateway   string   `json:"gateway"`   // URL; "" if there is none
		Dashboard string   `json:"dashboard"` // URL; "" if there is none
	}
)

// printReady tells what is served, now that it is. Only now are the gateway's
// port and so the URLs known.
func (a *app) printReady(cfg node.Config, ready node.Ready, seeds []seed) {
	for _, s := range seeds {
		s.URL = siteURL(ready.Gateway, s.Root)
		switch {
		case a.json:
			a.printJSON(addedEvent{"added", s.AddResult})
		case a.quiet:
			a.printf("%s\n", s.Root)
		default:
			a.printf("Added %s: %s, %s\n", printable(s.dir), count(s.Files, "file", "files"), size(s.Bytes))
			a.printf("  root    %s\n", s.Root)
			if s.URL != "" {
				a.printf("  read    %s\n", s.URL)
			}
			a.printf("To mirror it, on another machine:\n")
			if cfg.Network != node.PublicNetwork {
				a.printf("  pollux daemon --network %s --bootstrap %s\n", cfg.Network, dialable(ready.Addrs))
			}
			a.printf("  pollux follow %s\n", s.Root)
		}
	}
	switch {
	case a.json:
		e := readyEvent{Event: "ready", Peer: ready.Peer, Addrs: list(ready.Addrs), Gateway: ready.Gateway}
		if e.Gateway != "" {
			e.Dashboard = e.Gateway + "/"
		}
		a.printJSON(e)
	case a.quiet:
	case ready.Gateway == "":
		a.printf("Ready. Peer %s, no gateway\n", ready.Peer)
	default:
		a.printf("Ready. Peer %s, gateway %s/\n", ready.Peer, ready.Gateway)
	}
}

// siteURL is where a gateway serves a root, or "" without a gateway.
func siteURL(gateway, root string) string {
	u, err := url.Parse(gateway)
	if err != nil || gateway == "" {
		return ""
	}
	return fmt.Sprintf("http://%s.ipfs.localhost:%s/", root, u.Port())
}

// dialable picks the address that another machine is most likely to reach.
func dialable(addrs []string) string {
	for _, addr := range addrs {
		if !strings.HasPrefix(addr, "/ip4/127.") && !strings.HasPrefix(addr, "/ip6/::1/") {
			return addr
		}
	}
	if len(addrs) > 0 {
		return addrs[0]
	}
	return "MULTIADDR"
}

// reportPeers tells when the node has found its first peer, and that it has not
// if that takes long.
func (a *app) reportPeers(ctx context.Context, n *node.Node) {
	const (
		poll = 250 * time.Millisecond
		long = 5 * time.Second
	)
	patience := time.After(long)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-patience:
			a.printf("No peers are reachable yet; still trying\n")
		case <-tick.C:
			if peers, err := n.Peers(ctx); err == nil && len(peers) > 0 {
				a.printf("Connected to %s\n", count(int64(len(peers)), "peer", "peers"))
				return
			}
		}
	}
}
