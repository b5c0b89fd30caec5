package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) followCommand() *cobra.Command {
	var req api.FollowRequest
	cmd := &cobra.Command{
		Use:   "follow TARGET",
		Short: "Mirror a site from now on",
		Args:  exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			req.Target = args[0]
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			res, err := svc.Follow(ctx, req, show)
			done()
			switch {
			case ctx.Err() != nil && errors.Is(err, context.Canceled) && isDaemon(svc):
				return errors.New("interrupted; `pollux status` shows whether the daemon goes on")
			case err != nil:
				return err
			case a.json:
				return a.printJSON(res)
			case a.quiet:
				return nil
			case req.Wait:
				return a.printf("Mirrored %s: %s, %s (%s received from %s)\n", res.Root,
					count(res.Blocks, "block", "blocks"), size(res.Bytes), size(res.Received), count(res.Peers, "peer", "peers"))
			case isDaemon(svc):
				return a.printf("Following %s; see `pollux status`\n", printable(args[0]))
			default:
				return a.printf("Following %s as soon as `pollux daemon` runs\n", printable(args[0]))
			}
		}),
	}
	cmd.Flags().BoolVar(&req.Wait, "wait", false, "return when it is mirrored whole")
	timeoutFlag(cmd, &req.Timeout)
	return cmd
}
