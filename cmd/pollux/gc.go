package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) gcCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove the blocks that no site needs",
		Args:  exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.GC(ctx, show)
			done()
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			case a.quiet:
				return nil
			default:
				return a.printf("Removed %s, %s freed\n", count(res.Blocks, "block", "blocks"), size(res.FreedBytes))
			}
		}),
	}
}
