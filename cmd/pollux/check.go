package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) checkCommand() *cobra.Command {
	var req api.CheckRequest
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for damage in the block store; nothing is changed",
		Args:  exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.Check(ctx, req, show)
			done()
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(res)
			} else if !a.quiet {
				for _, d := range res.Damage {
					a.printf("%s\n", printable(d))
				}
				a.printf("Checked %s in %s, %s read\n", count(res.Blocks, "block", "blocks"), count(res.Packs, "pack", "packs"), size(res.Bytes))
			}
			switch {
			case res.Damaged > 0:
				return fmt.Errorf("%s damaged: look at the disk, and run `pollux repair`", count(res.Damaged, "block is", "blocks are"))
			case len(res.Incomplete) > 0:
				return fmt.Errorf("blocks of %s are missing, first of %s: run `pollux repair`", count(int64(len(res.Incomplete)), "site", "sites"), res.Incomplete[0])
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&req.Data, "data", false, "read and hash every block")
	return cmd
}
