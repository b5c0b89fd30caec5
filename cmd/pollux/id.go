package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) idCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "id",
		Short: "Show the node's peer ID and addresses",
		Args:  exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			id, err := svc.ID(ctx)
			if err != nil {
				return err
			}
			if a.json {
				id.Addrs = list(id.Addrs)
				return a.printJSON(id)
			}
			if err := a.printf("%s\n", id.Peer); err != nil || a.quiet {
				return err
			}
			for _, addr := range id.Addrs {
				if err := a.printf("  %s\n", addr); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
