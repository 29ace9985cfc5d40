# To be sourced: an apt of its own for Debian's packages of another architecture; system and apt stay as they are.

mirror=$(apt-get indextargets --format '$(SITE)' | grep -m 1 '/debian/\?$')

# foreign_apt <folder> <architecture>: from here on apt-get and apt-cache look at packages of that architecture, with their files in <folder>.
foreign_apt() {
  mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
  touch "$1/status"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm main\n' "$mirror" >"$1/sources.list"
  cat >"$1/apt.conf" <<CONF
APT::Architecture "$2"; APT::Architectures {"$2";}; APT::Sandbox::User "root";
Dir::State "$1"; Dir::State::lists "$1/lists"; Dir::State::status "$1/status";
Dir::Cache "$1/cache"; Dir::Etc::sourcelist "$1/sources.list"; Dir::Etc::sourceparts "-";
CONF
  export APT_CONFIG=$1/apt.conf
  apt-get update -qq
}
