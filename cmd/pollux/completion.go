package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print a script that completes commands in a shell",
		Long: `Print a script that completes commands in a shell. To have it in every session:

  bash  pollux completion bash >~/.local/share/bash-completion/completions/pollux
  zsh   pollux completion zsh >"${fpath[1]}/_pollux"
  fish  pollux completion fish >~/.config/fish/completions/pollux.fish`,
		ValidArgs: shells,
		Args:      cobra.MatchAll(exactly(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			default:
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
		},
	}
}
