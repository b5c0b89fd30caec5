package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) repairCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Take damaged packs out of use and fetch what is missing of sites",
		Long: `Take damaged packs out of use and fetch what is missing of sites.

Every block is read. What is sound in a damaged pack is copied; the pack is kept
until all sites are whole again. A daemon does this by itself when it meets damage.`,
		Args: exactly(0),
		RunE: does(func(ctx context.Context, _ []string) error {
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.Repair(ctx, api.RepairRequest{Timeout: timeout}, show)
			done()
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(res)
			} else if !a.quiet {
				a.printRepaired(res)
			}
			if n := int64(len(res.Incomplete)); n > 0 {
				return fmt.Errorf("%w: blocks of %s, first of %s; run it again when a mirror is online, or add it again from its source", api.ErrUnreachable, count(n, "site", "sites"), res.Incomplete[0])
			}
			return nil
		}),
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}

func (a *app) printRepaired(res api.RepairResult) {
	for _, d := range res.Damage {
		a.printf("%s\n", printable(d))
	}
	a.printf("Checked %s in %s, %s read\n", count(res.Blocks, "block", "blocks"), count(res.Packs, "pack", "packs"), size(res.Bytes))
	if res.Damaged+res.Restored+res.Received > 0 {
		a.printf("Took %s out of use, restored %s, received %s\n",
			count(res.Damaged, "damaged block", "damaged blocks"), count(res.Restored, "block", "blocks"), size(res.Received))
	}
	if res.QuarantinedBytes > 0 {
		a.printf("Kept %s of damaged packs until all sites are whole\n", size(res.QuarantinedBytes))
	}
}
