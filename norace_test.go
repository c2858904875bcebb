//go:build !race

package sneck_test

const raced = false
