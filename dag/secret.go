package dag

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// ErrSecret reports files that nobody publishes on purpose, such as private keys.
var ErrSecret = errors.New("looks secret")

const (
	// maxSecretsNamed is how many files an error names.
	maxSecretsNamed = 10
	// secretStart is how many bytes of a doubtful file decide, at most.
	secretStart = 1 << 20
)

// suspicion is what the name of a file or directory says about it.
type suspicion int

const (
	harmless suspicion = iota
	doubtful           // its content decides; see isSecret
	secret
)

// suspect judges the entry called name in a directory called dir. Case does not
// matter.
func suspect(dir, name string, isDir bool) suspicion {
	name = strings.ToLower(name)
	if isDir {
		switch name {
		case ".git", ".gnupg", ".ssh":
			return secret
		}
		return harmless
	}
	switch name {
	case ".env", ".htpasswd", ".netrc",
		"id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_rsa":
		return secret
	case ".env.example", ".env.sample":
		return harmless
	case ".npmrc":
		return doubtful
	case "credentials":
		if strings.EqualFold(path.Base(dir), ".aws") {
			return secret
		}
	}
	if strings.HasPrefix(name, ".env.") {
		return secret
	}
	switch path.Ext(name) {
	case ".p12", ".pfx":
		return secret
	case ".key", ".pem":
		return doubtful
	}
	return harmless
}

// isSecret judges a doubtful file by its first bytes: whether there is a private key
// in PEM, or what npm proves its user's identity with.
func isSecret(name string, start []byte) bool {
	if strings.EqualFold(name, ".npmrc") {
		for _, key := range []string{"_authToken", "_auth", "_password"} {
			if bytes.Contains(start, []byte(key)) {
				return true
			}
		}
		return false
	}
	for {
		_, rest, found := bytes.Cut(start, []byte("-----BEGIN "))
		if !found {
			return false
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if bytes.Contains(line, []byte("PRIVATE KEY")) {
			return true
		}
		start = rest
	}
}

// secretList is the secrets that a walk came upon.
type secretList struct {
	paths []string // the first ones
	more  int      // how many there are beyond
}

// check enters the entry called name of d if its name says that it is secret. A symlink
// never is: only its target's name would be published.
func (s *secretList) check(d *importDir, name string, mode fs.FileMode) {
	if !mode.IsDir() && !mode.IsRegular() || suspect(d.name, name, mode.IsDir()) != secret {
		return
	}
	s.add(d.path(name))
}

func (s *secretList) add(path string) {
	if len(s.paths) == maxSecretsNamed {
		s.more++
		return
	}
	s.paths = append(s.paths, strconv.Quote(path))
}

func (s *secretList) found() bool { return len(s.paths) > 0 }

func (s *secretList) err() error {
	list := strings.Join(s.paths, ", ")
	if s.more > 0 {
		list += fmt.Sprintf(" and %d more", s.more)
	}
	return fmt.Errorf("%s: %w", list, ErrSecret)
}
