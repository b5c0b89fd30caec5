package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) unfollowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unfollow TARGET",
		Short: "Stop mirroring or keeping a site",
		Args:  exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			err = svc.Unfollow(ctx, args[0])
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(struct {
					Target string `json:"target"`
				}{args[0]})
			case a.quiet:
				return nil
			default:
				return a.printf("No longer following %s\n", printable(args[0]))
			}
		}),
	}
}
