package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) peersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List the connected peers",
		Args:  exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.dial()
			if err != nil {
				return err
			}
			defer svc.Close()
			peers, err := svc.Peers(ctx)
			if err != nil {
				return err
			}
			if a.json {
				for i := range peers {
					peers[i].Addrs = list(peers[i].Addrs)
				}
				return a.printJSON(struct {
					Peers []api.Peer `json:"peers"`
				}{list(peers)})
			}
			if len(peers) == 0 && !a.quiet {
				return a.printf("No peer is connected\n")
			}
			for _, p := range peers {
				if err := a.printPeer(p); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// printPeer writes a peer on a line; with --quiet its ID alone.
func (a *app) printPeer(p api.Peer) error {
	if a.quiet {
		return a.printf("%s\n", p.Peer)
	}
	return a.printf("%s  %-8s  %9s  %s  %s\n", p.Peer, p.Direction, milliseconds(p.RTTMS), printable(strings.Join(p.Addrs, " ")), printable(p.Agent))
}
