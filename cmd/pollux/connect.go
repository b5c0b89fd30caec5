package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) connectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "connect MULTIADDR",
		Short: "Connect to a peer",
		Args:  exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			svc, err := a.dial()
			if err != nil {
				return err
			}
			defer svc.Close()
			p, err := svc.Connect(ctx, args[0])
			switch {
			case err != nil:
				return err
			case a.json:
				p.Addrs = list(p.Addrs)
				return a.printJSON(p)
			case a.quiet:
				return nil
			default:
				return a.printf("Connected to %s\n", p.Peer)
			}
		}),
	}
}
