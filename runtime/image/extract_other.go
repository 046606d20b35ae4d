//go:build !linux

package image

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Only linux unpacks layers; elsewhere the package builds so that what imports it can be developed.
var errLinuxOnly = errors.New("layers are unpacked on linux only")

// UnpackMain fails on this system.
func UnpackMain() int { return 1 }

func extractLayer(context.Context, io.Reader, string, bool) (extracted, error) {
	return extracted{}, errLinuxOnly
}

func (s *Store) extractInChild(context.Context, *os.File, string) (extracted, error) {
	return extracted{}, errLinuxOnly
}

func inheritedAttrs(implicit, lowers []string) ([]dirAttr, error) { return nil, errLinuxOnly }
func applyAttrs(root string, attrs []dirAttr) error               { return errLinuxOnly }
func syncFS(*os.File) error                                       { return nil }
func changed(fi os.FileInfo) time.Time                            { return fi.ModTime() }

func sealTree(string, []string, bool) (seal, error) { return seal{}, errLinuxOnly }
