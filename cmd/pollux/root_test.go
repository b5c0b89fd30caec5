package main

import "testing"

func TestDefaultRepo(t *testing.T) {
	for _, tt := range []struct{ name, repo, data, want string }{
		{"own variable", "/r", "/d", "/r"},
		{"XDG", "", "/d", "/d/pollux"},
		{"relative XDG", "", "d", "/home/u/.local/share/pollux"},
		{"neither", "", "", "/home/u/.local/share/pollux"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("HOME", "/home/u")
			t.Setenv("POLLUX_REPO", tt.repo)
			t.Setenv("XDG_DATA_HOME", tt.data)
			if got := defaultRepo(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
